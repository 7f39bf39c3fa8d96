"""`graftlm import`: an adapter of PEFT's as a run."""

from typing import Annotated

import typer


def import_(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder that PEFT wrote.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="A new folder for the run.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The base; the one that the folder names by default.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="classification, regression, tagging, spans or generation; DIR's own."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="The labels in the order of the logits; PEFT keeps none.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="NAME=VALUE", help='An option of the task, as -o "task.prompt=Q: {question} A:".'),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Read an adapter that PEFT wrote.

    LORA, IA3, PROMPT_TUNING, P_TUNING and PREFIX_TUNING with a classifier, or for a model with its LM head, become
    runs like any other.

    \b
    Example:
      graftlm import runs/tweets-peft --labels negative,neutral,positive \\
        --out runs/tweets-again
      graftlm import runs/e2e-peft -o "task.prompt={mr} =>" --out runs/e2e-again
    """
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.cli._options import task_values
    from graftlm.core.errors import UserError

    names = [name.strip() for name in labels.split(",")] if labels is not None else []
    if not all(names):
        raise UserError(f'--labels "{labels}" has an empty name; write them as a,b')
    given = task_values(options)
    hush()
    from graftlm.recipes.import_ import import_peft

    reporter = ConsoleReporter(quiet=quiet)
    print(import_peft(folder, out, model=model, task=task, labels=names, options=given, reporter=reporter))
