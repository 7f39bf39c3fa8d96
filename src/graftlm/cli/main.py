"""The command `graftlm`. Nothing heavy is imported before a job needs it."""

import sys
import traceback
from difflib import get_close_matches
from typing import Any

import click
import typer

from graftlm.cli.evaluate import evaluate
from graftlm.cli.fit import fit
from graftlm.cli.merge import merge
from graftlm.cli.predict import predict
from graftlm.cli.show import methods, models, sites
from graftlm.core.errors import UserError

app = typer.Typer(
    name="graftlm",
    help="Adapt a frozen pretrained language model to a task with few parameters and few examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (fit, evaluate, predict, merge, sites, methods, models):
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0, 2 for a user's mistake, 1 for a bug, 130 when interrupted."""
    sys.exit(_code(sys.argv[1:] if arguments is None else arguments))


def _code(arguments: list[str]) -> int:
    try:
        result = app(arguments, standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if not _is_usage(error):
            traceback.print_exc()
            return 1
        print(f"error: {_usage(error)}", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


def _is_usage(error: Any) -> bool:
    return any(kind.__name__ in ("UsageError", "NoArgsIsHelpError", "ClickException") for kind in type(error).__mro__)


def _usage(error: Any) -> str:
    """One line, which names the nearest option or command."""
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    if "did you mean" in text.lower() or "possible options" in text.lower():
        return text
    command = getattr(getattr(error, "ctx", None), "command", None)
    known = list(getattr(command, "commands", {})) + [name for part in getattr(command, "params", []) for name in part.opts]
    near = get_close_matches(str(getattr(error, "option_name", None) or text.split("'")[-2:][0]), known, n=1)
    return f"{text}; did you mean {near[0]}?" if near else text


if __name__ == "__main__":
    main()
