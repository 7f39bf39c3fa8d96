"""`graftlm methods`: what can be trained, and with a name, one method whole."""

import inspect
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.options import Option

Facts = dict[str, object]


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this method whole.")] = None,
) -> None:
    """List the methods, or show one.

    Each with the way it acts, what it trains and stores, and whether it can be merged into the base; one with its
    options, their defaults and an example.

    \b
    Example:
      graftlm methods lora
    """
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.errors import unknown
    from graftlm.core.registry import facts

    table, reporter = facts("graftlm.methods"), ConsoleReporter()
    if name is None:
        rows = [[each, *_cells(row)] for each, row in table.items()]
        reporter.table("methods", ["name", "acts by", "trains", "stores", "mergeable", "paper"], rows)
    elif name in table:
        _show(name, table[name], reporter)
    else:
        raise unknown("method", name, table)


def _cells(row: Facts) -> list[str]:
    acts_by, trains, stores, paper = (str(row.get(key, "")) for key in ("KIND", "TRAINS", "STORES", "PAPER"))
    return [acts_by, trains, stores, "yes" if row.get("MERGEABLE") else "no", paper]


def _show(name: str, row: Facts, reporter: "ConsoleReporter") -> None:
    """The method's own words, what it is, its options, a command."""
    from graftlm.cli._console import hush

    hush()
    from graftlm.core.options import options
    from graftlm.methods import config_class

    config = config_class(name)
    found = options(config)
    reporter.out.print(f"{row['doc']}\n", soft_wrap=True)
    acts_by, trains, stores, mergeable, paper = _cells(row)
    facts = [["acts by", acts_by], ["trains", trains], ["stores", stores], ["mergeable", mergeable]]
    facts += [["learning rate", f"{row['LEARNING_RATE']:g}"]] if "LEARNING_RATE" in row else []
    facts += [["paper", paper]] if paper else []
    reporter.table(name, ["", ""], facts)
    if found:
        cells = [[f"method.{each.name}", each.type, each.default] for each in found]
        reporter.table("options", ["name", "type", "default"], cells)
    reporter.out.print(
        f"{inspect.cleandoc(config.__doc__ or '')}\n\nExample:\n  {example(name, found, row)}", soft_wrap=True
    )


def example(name: str, options: "list[Option]", row: Facts, model: str = "minilm") -> str:
    """A command that trains the method."""
    from graftlm.core.options import as_yaml

    words = ["graftlm", "fit", "--model", model, "--data", "examples/data/tweets", "--method", name]
    for option, value in example_options(options, row).items():
        words += ["-o", f"method.{option}={as_yaml(value)}"]
    return shlex.join([*words, "--out", f"runs/{name}"])


def example_options(options: "list[Option]", row: Facts) -> dict[str, Any]:
    """The method's own `EXAMPLE`, or its first option that has a value, to show how one is set."""
    given = row.get("EXAMPLE")
    if isinstance(given, dict):
        return given
    shown = next((each for each in options if each.value not in (None, "", [], {})), None)
    return {} if shown is None else {shown.name: shown.value}
