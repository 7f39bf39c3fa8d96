"""The command `graftlm`. Nothing heavy is imported before a job needs it."""

import errno
import os
import re
import sys
import traceback
from typing import Annotated, Any

import typer

from graftlm.cli.compare import compare
from graftlm.cli.evaluate import evaluate
from graftlm.cli.export import export
from graftlm.cli.fit import fit
from graftlm.cli.import_ import import_
from graftlm.cli.merge import merge
from graftlm.cli.methods import methods
from graftlm.cli.models import models
from graftlm.cli.predict import predict
from graftlm.cli.report import report
from graftlm.cli.sites import sites
from graftlm.cli.template import template
from graftlm.core.errors import Stopped, UserError, unknown

FILE_TROUBLE = (errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)
INTERRUPTED = 130
WANTED = {"valid integer": "a whole number", "valid float": "a number", "valid number": "a number"}

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (fit, compare, report, evaluate, predict, merge, export, import_, template, sites, methods, models):
    app.command(command.__name__.rstrip("_"))(command)


def _version(wanted: bool) -> None:
    if wanted:
        from graftlm import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def graftlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Adapt a frozen pretrained language model to a task with few parameters and few examples.

    \b
    Example:
      graftlm fit --model minilm --data examples/data/tweets \\
        --method lora --out runs/tweets
      graftlm predict runs/tweets --text "what a day :)"
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0, 2 for a user's mistake, 1 for a bug, 128 + N after signal N."""
    sys.exit(code(sys.argv[1:] if arguments is None else arguments))


def code(arguments: list[str]) -> int:
    """Runs the command and gives its exit code."""
    try:
        result = app(arguments or ["--help"], prog_name="graftlm", standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer's own word for Ctrl-C
            return _failed("interrupted", INTERRUPTED)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return _unread()
    except Stopped as stopped:
        return _failed(str(stopped), 128 + stopped.signal)
    except SystemExit as error:
        return _unread() if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except Exception as error:
        mistake = _mistake(error, arguments)
        if mistake is not None:
            return _failed(f"error: {' '.join(mistake.splitlines())}", 2)
        traceback.print_exc()
        return 1


def _failed(text: str, exit_code: int) -> int:
    """Says it once on each machine, where several processes train one run."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)
    return exit_code


def _unread() -> int:
    """Ends in peace where nobody reads on, as in `graftlm methods | head -1`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _mistake(error: Exception, arguments: list[str]) -> str | None:
    """What to tell a user whose mistake an error is; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.errno in FILE_TROUBLE:
        return f"{error.filename}: {str(error.strerror).lower()}"
    if any(
        kind.__name__ == "ClickException" for kind in type(error).__mro__
    ):  # typer's own class or click's, by version
        return _usage(error, arguments)
    return None


def _usage(error: Any, arguments: list[str]) -> str:
    """One line for a wrong command line; a command or option that does not exist names the nearest."""
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    if type(error).__name__ == "NoSuchOption":
        return str(unknown("option", error.option_name, _flags(command)))
    named = re.match(r"No such command '(.*?)'", text)
    if named:
        return str(unknown("command", named[1], command.commands))
    where = f"; see {context.command_path} --help" if context is not None else ""
    wanted = next((kind for sign, kind in WANTED.items() if sign in text), None)
    flags = [name for name in getattr(getattr(error, "param", None), "opts", ()) if name.startswith("-")]
    if wanted is not None and flags:
        return f"{flags[0]} {_given(arguments, flags)}: input should be {wanted}{where}"
    return text[:1].lower() + text[1:] + where


def _flags(command: Any) -> list[str]:
    return [name for part in command.params for name in part.opts if name.startswith("-")] + ["--help"]


def _given(arguments: list[str], flags: list[str]) -> str:
    """The value that stands behind a flag."""
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in flags:
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return ""


if __name__ == "__main__":
    main()
