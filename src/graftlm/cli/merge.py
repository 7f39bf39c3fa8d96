"""`graftlm merge`: a run and its base as one plain Transformers model."""

from typing import Annotated

import typer


def merge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[str, typer.Option(metavar="DIR", help="A new folder for the merged model.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Fold a run into its base.

    What it writes is a plain Transformers model, after checking that its logits are the run's.

    \b
    Example:
      graftlm merge runs/tweets --to runs/tweets-merged
    """
    from graftlm.cli._console import ConsoleReporter, hush

    hush()
    from graftlm.recipes.merge import merge as job

    print(job(run, to, ConsoleReporter(quiet=quiet)))
