"""The command `lamina`: the verbs of the library. Each verb is a thin file here; torch is imported only when one needs it."""

import os
import sys
from typing import Annotated

import typer

from lamina import __version__
from lamina.cli import (
    bench,
    compare,
    cost,
    demo,
    diagnose,
    evaluate,
    explore,
    export,
    fit,
    grow,
    lecture,
    listing,
    roofline,
    run,
    serve,
    show,
    table,
    train,
    translate,
)
from lamina.errors import InputError, LaminaError, reason

app = typer.Typer(
    name="lamina",
    help="What a deep network costs, what it answers, and whether its lecture was right about it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("list")(listing.listing)
app.command("show")(show.show)
app.command("table")(table.table)
app.command("lecture")(lecture.lecture)
app.command("cost")(cost.cost)
app.command("compare")(compare.compare)
app.command("explore")(explore.explore)
app.command("fit")(fit.fit)
app.command("roofline")(roofline.roofline)
app.command("run")(run.run)
app.command("translate")(translate.translate)
app.command("bench")(bench.bench)
app.command("export")(export.export)
app.command("train")(train.train)
app.command("serve")(serve.serve)
app.command("eval")(evaluate.evaluate)
app.command("grow")(grow.grow)
app.command("shrink")(grow.shrink)
app.command("diagnose")(diagnose.diagnose)


def _version(asked: bool) -> None:
    if asked:
        print(f"lamina {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for errors.")] = False,
) -> None:
    pass


def main() -> None:
    """Exit code 0 for success, 1 for work that failed, 2 for a wrong call; errors are one line on standard error."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:  # anywhere on the line
        arguments.remove("--debug")
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:  # the reader of a pipe has gone (`lamina list | head`): not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, InputError):
            _fail(str(error), 2)
        if isinstance(error, LaminaError):
            _fail(str(error), 1)
        describe = getattr(error, "format_message", None)
        if describe is not None:  # the command line's own errors: an unknown option, a missing argument
            message = describe()
            if message:
                _fail(f"{message.rstrip('.')}; see `lamina {_verb(arguments)}--help`", 2)
            sys.exit(2)
        if isinstance(error, OSError):
            _fail(f"{error.filename or 'writing the output'}: {reason(error)}", 1)
        _fail(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)", 1)


def _verb(arguments: list[str]) -> str:
    verbs = {command.name for command in app.registered_commands}
    return f"{arguments[0]} " if arguments and arguments[0] in verbs else ""


def _fail(message: str, code: int) -> None:
    print("lamina: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
