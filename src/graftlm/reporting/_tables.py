"""Results as files: CSV, Parquet and LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from graftlm.core.files import write_bytes, write_text
from graftlm.core.results import COLUMNS, Result
from graftlm.reporting._settings import Setting, not_compared, ranked
from graftlm.reporting._statistics import Verdict

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other signs in LaTeX's first encoding
SPECIAL |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
SPECIAL |= {letter: f"{{{letter}}}" for letter in "[*"}  # an option of the line before


def write_csv(path: Path, runs: Sequence[Result]) -> None:
    """A line a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(run.row().values() for run in runs)
    write_text(path, text.getvalue())


def write_parquet(path: Path, runs: Sequence[Result]) -> None:
    """A line a run."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([run.row() for run in runs])
    write_bytes(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def write_latex(path: Path, found: Sequence[Setting], verdict: Verdict | None) -> None:
    """A line a setting, the best first; a comment says what bold and italic are."""
    alike = {verdict.best, *(d.other for d in verdict.differences if not d.real)} if verdict else set()
    apart = {setting.name for setting in found if not_compared(setting, verdict)}
    lines = ["% bold: cannot be told from the best"] if alike else []
    if apart:
        lines[0] += "; italic: not compared (fewer examples a label, or not its method's best rate on validation)"
    lines += [r"\begin{tabular}{lrrrr}", r"\toprule"]
    lines += [r"method & validation & test & trained & seconds \\", r"\midrule"]
    for setting in ranked(found):
        name = escaped(setting.name)
        style = r"\textbf" if setting.name in alike else r"\textit" if setting.name in apart else ""
        cells = [f"{style}{{{name}}}" if style else name]
        for split in ("validation", "test"):
            spread = setting.spread(split)
            cells.append(_cell(spread))
        lines.append(" & ".join([*cells, f"{setting.first.trained:,}", f"{setting.seconds:.1f}"]) + r" \\")
    write_text(path, "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))


def _cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "--"
    value, deviation = found
    return f"${value:.3f}$" if deviation is None else rf"${value:.3f} \pm {deviation:.3f}$"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)
