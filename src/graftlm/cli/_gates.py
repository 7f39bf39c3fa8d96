"""A run's gates on the screen: a table by layer, and where their plot lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftlm.cli._console import ConsoleReporter


def show(found: Mapping[str, Sequence[float]], run: Path, reporter: "ConsoleReporter") -> None:
    """Prints mean ± deviation over the texts, and writes the plot into the run's folder."""
    from graftlm.reporting.gates import by_layer, write

    table = by_layer(found)
    parts = list(dict.fromkeys(part for row in table.values() for part in row))
    rows = [[layer, *(_cell(row.get(part)) for part in parts)] for layer, row in table.items()]
    count = len(next(iter(found.values())))
    reporter.table(f"gates, mean ± deviation over {count} texts", ["layer", *parts], rows, note=True)
    path = run / "gates.html"
    write(path, table)
    reporter.line(f"plot: {path}")


def _cell(values: Sequence[float] | None) -> str:
    return "" if values is None else f"{mean(values):.3f} ± {pstdev(values):.3f}"
