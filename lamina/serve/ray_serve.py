"""The same application on Ray Serve, where one process or one machine is not enough."""

import logging
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command
from lamina.serve.app import application
from lamina.serve.guard import Limits
from lamina.serve.models import Models, Wanted


def deploy(
    wanted: Sequence[Wanted],
    batch: int,
    latency: float,
    limits: Limits,
    options: Mapping[str, Any],
    host: str,
    port: int,
    replicas: int,
) -> None:
    """Run `replicas` processes of the application behind Ray Serve's proxy at `host` and `port`, until interrupted: on the Ray
    cluster that this machine belongs to, or on this machine alone."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import serve  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"--ray needs ray[serve]: {install_command('ray')}") from error

    def build() -> Any:  # in each replica: networks stay where they are run
        return application(Models(wanted, batch, latency), limits, wait=True, **options)

    @serve.deployment(name="lamina", num_replicas=replicas, max_ongoing_requests=1000, max_constructor_retry_count=1)
    @serve.ingress(build)
    class Replica:
        pass

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True, configure_logging=False)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own prints its stack and aborts
        serve.start(http_options={"host": host, "port": port})
        serve.run(Replica.bind(), name="lamina", route_prefix="/")  # pyright: ignore[reportAttributeAccessIssue]
        names = ", ".join(item.name for item in wanted)
        print(f"lamina: {names} at http://{host}:{port}, by {replicas} replicas", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except Exception as error:  # Ray's own share no class
        text = f"Ray Serve does not start: {first_line(error)} Without --ray a network that does not load says why"
        raise LaminaError(text) from error
    finally:
        serve.shutdown()  # each replica finishes what it has accepted
        ray.shutdown()
