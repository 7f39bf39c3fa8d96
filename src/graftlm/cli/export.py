"""`graftlm export`: a run as an adapter of PEFT's."""

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    peft: Annotated[str, typer.Option(metavar="DIR", help="A new folder, in PEFT's format.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Write a run for PEFT.

    It says what would keep vLLM from serving it, and what helps.

    \b
    Example:
      graftlm export runs/tweets --peft runs/tweets-peft
    """
    from graftlm.cli._console import ConsoleReporter, hush

    hush()
    from graftlm.recipes.export import export_peft

    print(export_peft(run, peft, ConsoleReporter(quiet=quiet)).folder)
