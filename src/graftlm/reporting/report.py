"""A comparison as files to look at and to cite, made from its runs' folders alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from graftlm.core.files import write_text, writing
from graftlm.core.results import Result, absent, planned, results
from graftlm.reporting._page import page
from graftlm.reporting._settings import sentence, settings, verdict
from graftlm.reporting._tables import write_csv, write_latex, write_parquet

REPORT = "report.html"


def report(folders: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, str]:
    """Writes `report.html`, `results.csv`, `results.parquet` and `results.tex`; gives the report's path and verdict.

    `folders` are those of comparisons, or of single runs; several are merged, and a run that stands in two counts once.
    `out` is the first of them unless given.
    """
    paths = [Path(folder) for folder in folders]
    runs = results(paths)
    found = settings(runs)
    own = verdict(found)
    said = " ".join([sentence(found, own), *_repeated(runs), *_absent(paths)])
    whole = page(paths, found, own, said)  # before anything is written: what cannot be read leaves nothing behind
    to = Path(out) if out is not None else paths[0]
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
    write_csv(to / "results.csv", runs)
    write_parquet(to / "results.parquet", runs)
    write_latex(to / "results.tex", found, own)
    write_text(to / REPORT, whole)
    return to / REPORT, said


def _repeated(runs: Sequence[Result]) -> Iterator[str]:
    """A line on the folders that are left out."""
    if again := [str(folder) for run in runs for folder in run.repeats]:
        named = ", ".join(again[:3]) + (", …" if len(again) > 3 else "")
        yield f"Left out, since another folder has the same run: {named}."


def _absent(paths: Sequence[Path]) -> Iterator[str]:
    """A line a comparison that planned runs which its folder has nothing of."""
    for path in paths:
        if missing := absent(path):
            named = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            yield f"{path} lacks {len(missing)} of the {len(planned(path))} runs that it planned ({named})."
