"""The rows of `methods.py` as Markdown."""

import statistics
from collections.abc import Mapping, Sequence

from rates import Entry
from rows import Row, spread, table

COLUMNS = ("method", "rate", "trained", "stored", "accuracy", "seeds", "examples a second", "peak GiB", "in")


def report(rows: Sequence[Row], chosen: Mapping[str, Entry], sets: Sequence[str], settings: Row) -> str:
    """A table a data set, then the rates that were tried; only rows that are there."""
    steps = f", at most {settings['max_steps']} steps" if settings["max_steps"] is not None else ""
    parts = [
        "# Results",
        f"Every method on {settings['examples']:,} training examples with `{settings['model']}`, batch "
        f"{settings['batch_size']}, {settings['epochs']:g} epochs{steps}, mean pooling, the "
        f"best epoch on {settings['validation']:,} of validation. "
        "Made by `python benchmarks/methods.py`; every run is a line of the `.jsonl` beside this file.",
        "The rate is the best on validation with seed 0 of those below; then the seeds 1, 2, … are trained at it. "
        "Accuracy is the mean ± standard deviation over the seeds; examples a second are those of training, in a "
        "short run on a machine at rest (`--timed`) where there is one, else the median of the runs; peak memory is "
        "the largest of the run's process, Python and libraries included. Trained and stored numbers are the "
        "method's and the head's together.",
        *_machines(rows),
    ]
    for name in sets:
        own = [row for row in rows if row["job"]["set"] == name]
        splits = sorted({row["split"] for row in own if row.get("score") is not None})
        lines = [line for label, entry in chosen.items() if (line := _line(own, label, entry)) is not None]
        if lines:
            parts += [f"## {name}", f"Accuracy on {' and '.join(splits) or 'nothing yet'}.", table(COLUMNS, lines)]
    tried = [
        [label, _rates(entry.paper), _rates(entry.ours), entry.source]
        for label, entry in chosen.items()
        if any(row["job"]["label"] == label for row in rows)
    ]
    parts += ["## Rates", table(("method", "the paper's", "ours", "source"), tried)]
    return "\n\n".join(parts) + "\n"


def of(rows: Sequence[Row], label: str, entry: Entry) -> list[Row]:
    """The runs of one line of the table as it is now, whatever options it had before."""
    method = {"name": entry.method, **entry.options}
    return [row for row in rows if row["job"]["label"] == label and row["job"]["method"] == method]


def best_rate(rows: Sequence[Row], entry: Entry) -> float | None:
    """The best rate on validation, the lower of equals; a search with a hole in it chooses nothing."""
    found = {
        row["job"]["rate"]: row["validation"]
        for row in rows
        if row.get("score") is not None and row["job"]["seed"] == 0
    }
    if not set(entry.rates) <= set(found):
        return None
    return max(entry.rates, key=lambda rate: (found[rate], -rate))


def _line(rows: Sequence[Row], label: str, entry: Entry) -> list[str] | None:
    """One method on one data set, or None where nothing was measured of it."""
    own = of(rows, label, entry)
    refused = next((row["refused"] for row in own if "refused" in row), None)
    if refused is not None:
        return [label, f"refused: {refused}", *[""] * (len(COLUMNS) - 2)]
    rate = best_rate(own, entry)
    final = [row for row in own if row["score"] is not None and row["job"]["rate"] == rate]
    timed = [row for row in own if "timed" in row["job"] and row["job"]["rate"] == rate]
    if rate is None or not final:
        return None
    parameters = final[0]["parameters"]
    scores = [row["score"] for row in final]
    return [
        label,
        f"{rate:g}{_marks(rate, entry)}",
        f"{parameters['delta'] + parameters['head']:,}",
        f"{parameters['kept']:,}",
        spread(scores),
        str(len(scores)),
        f"{statistics.median(row['examples_per_second'] for row in timed or final):.0f}",
        f"{max(row['peak_memory_bytes'] for row in final) / 2**30:.2f}",
        ", ".join(sorted({row["precision"] for row in final})),
    ]


def _marks(rate: float, entry: Entry) -> str:
    """Whose rate it is, and whether a better one may lie beyond those tried."""
    said = ["ours"] if entry.paper and rate not in entry.paper else []
    said += ["the highest tried"] if rate == entry.rates[-1] else ["the lowest tried"] if rate == entry.rates[0] else []
    return f" ({', '.join(said)})" if said else ""


def _machines(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "refused" not in row]
    where = sorted({row["processor"] for row in measured})
    with_what = sorted({", ".join(f"{name} {value}" for name, value in row["versions"].items()) for row in measured})
    return [f"Measured on {' and on '.join(where)}; {'; '.join(with_what)}."] if measured else []


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
