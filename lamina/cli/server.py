"""What `serve` and `explore` share."""

import sys

from lamina.errors import InputError


def say(text: str) -> None:
    print(f"lamina: {text}", file=sys.stderr, flush=True)


def require() -> None:
    from lamina.extras import install_command

    for library in ("starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart"):
        try:
            __import__(library)
        except ImportError as error:
            raise InputError(f"serving needs {library}: {install_command('serve')}") from error
