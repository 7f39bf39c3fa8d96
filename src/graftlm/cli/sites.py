"""`graftlm sites`: where methods may act in a model."""

from typing import Annotated

import typer

from graftlm.cli._options import method_options


def sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See graftlm models; a folder or hub name too.")],
    method: Annotated[str | None, typer.Option(metavar="NAME", help="Show what this method would train.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="The method's: method.rank=4.")
    ] = None,
) -> None:
    """Show where methods may act in a model.

    The weights are not loaded: the model's config is enough.

    \b
    Example:
      graftlm sites minilm --method lora -o method.rank=4
    """
    from graftlm.cli._console import ConsoleReporter, hush

    options = method_options(option or [], method)
    hush()
    from graftlm.recipes.sites import describe

    reporter = ConsoleReporter()
    found = describe(model, method, options)
    if found.notice:
        reporter.warn(found.notice)
    reporter.table(f"{model}: {found.family}, {found.parameters:,} parameters", found.columns, found.rows)
    if method is not None:
        title = f"{method} trains {found.delta:,} ({found.share:.3f} %), stores {found.kept:,}; a head comes on top"
        reporter.table(title, ["site", "tensor", "shape", "numbers"], found.trained)
