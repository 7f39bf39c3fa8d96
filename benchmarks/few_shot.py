"""Every method on sst2, trec and snli with MiniLM at 16, 64 and 256 examples a label: accuracy over draws.

    python benchmarks/few_shot.py [--data ../shared/data] [--sets sst2 trec snli] [--methods lora prefix] [--shots 16]

Each seed draws its own training and validation set (`data.shots`; a label with too few examples gives half of them to
each), and a method is trained at the rate that `methods.py` found for it on 1,000 examples of the same data set. Rows
are kept as `methods.py` keeps them.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rates import Entry, entries
from report import best_rate, of
from rows import Row, Rows, counted, ended, processor, quicker, table

from graftlm.core.errors import UserError
from graftlm.core.files import write_text
from graftlm.core.registry import facts
from methods import SETS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DRAWS = (13, 21, 42, 87, 100)  # LM-BFF's
STEPS = {16: 100, 64: 150, 256: 250}  # by examples a label; a quarter of them lies between two validations
TESTED = 1000


def main() -> int:
    known = entries(facts("graftlm.methods"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the datasets' folder")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET")
    parser.add_argument("--methods", nargs="+", default=list(known), choices=list(known), metavar="METHOD")
    parser.add_argument("--shots", nargs="+", type=int, default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(DRAWS) + 1), metavar="N")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of new runs; what is quicker here by default")
    parser.add_argument("--rates", type=Path, default=RESULTS / "methods.jsonl", help="rows of methods.py")
    parser.add_argument("--to", type=Path, default=RESULTS / "few_shot")
    options = parser.parse_args()
    if not options.rates.exists():
        raise UserError(f"there is no {options.rates}; benchmarks/methods.py makes it")
    found = [json.loads(line) for line in options.rates.read_text(encoding="utf-8").splitlines()]
    settings = {"model": "minilm", "tested": TESTED}
    rows = Rows(options.to.with_suffix(".jsonl"), settings, one, {"precision": options.precision or quicker()})
    for job in jobs(options, known, found):
        rows.measured(job, options.data / job["set"])
    write_text(options.to.with_suffix(".md"), report(rows.mine()))
    print(f"{options.to.with_suffix('.md')}: written; {rows.failed} runs failed")
    return 1 if rows.failed else 0


def jobs(options: argparse.Namespace, known: Mapping[str, Entry], found: Sequence[Row]) -> Iterator[Row]:
    """All runs, the few examples first; a method without a rate on a data set is left out aloud."""
    for shots in options.shots:
        for seed in range(options.seeds):
            for name in options.sets:
                for label in options.methods:
                    entry = known[label]
                    rate = best_rate([row for row in of(found, label, entry) if row["job"]["set"] == name], entry)
                    if rate is None:
                        print(f"{label} on {name}: skipped, {options.rates} has no rate for it")
                        continue
                    job = {"set": name, "label": label, "method": {"name": entry.method, **entry.options}}
                    yield job | {"rate": rate, "shots": shots, "seed": seed}


def one(job: Row) -> Row:
    """One run, in this process: its accuracy on the first of test."""
    import graftlm
    from graftlm.cli import hush

    hush()
    steps = STEPS[job["shots"]]
    data = {"path": job["folder"], "limit": {"test": TESTED}}
    draw = {"shots": job["shots"], "shots_seed": DRAWS[job["seed"]], "shots_rare": "half"}
    training = {"learning_rate": job["rate"], "precision": job["precision"], "batch_size": 8}
    with tempfile.TemporaryDirectory() as work:
        run = graftlm.fit(
            model=job["model"],
            data=data | draw,
            out=f"{work}/run",
            method=job["method"],
            training=training | {"max_steps": steps, "eval_steps": steps // 4},
            head={"pooling": "mean"},  # as MiniLM was trained
            seed=job["seed"],
        )
        tested = graftlm.evaluate(f"{work}/run", data, "test", precision=job["precision"])
    return tested_row(run, tested)


def tested_row(run: Any, tested: Any) -> Row:
    """A run and its evaluation as a row."""
    return {
        "validation": run.metrics["accuracy"],
        "score": tested.metrics["accuracy"],
        "parameters": dict(run.parameters),
        "seconds": round(run.seconds, 1),
        "processor": processor(),
    }


def report(rows: Sequence[Row]) -> str:
    """A table a data set: a line a method, a column a number of shots."""
    where = " and ".join(sorted({row["processor"] for row in rows}))
    parts = [
        "# Every method from few examples",
        f"Accuracy of MiniLM on the first {TESTED:,} of test at 16, 64 and 256 examples a label, mean ± standard "
        "deviation over draws of the training set (how many in brackets; of a label with too few examples half are "
        "drawn); the weights that are best on a validation set of the same size. The rate is what was best on 1,000 "
        "examples of the same set ([methods](methods.md)), whatever the shots. Made by "
        "`python benchmarks/few_shot.py`; every run is a line of the `.jsonl` beside it.",
        f"Measured on {where}.",
    ]
    for name in dict.fromkeys(row["job"]["set"] for row in rows):
        own = [row for row in rows if row["job"]["set"] == name]
        shots = sorted({row["job"]["shots"] for row in own})
        lines: list[list[str]] = []
        for label in dict.fromkeys(row["job"]["label"] for row in own):
            its = [row for row in own if row["job"]["label"] == label]
            cells = [counted([row["score"] for row in its if row["job"]["shots"] == count]) for count in shots]
            lines.append([label, f"{its[0]['job']['rate']:g}", *cells])
        parts += [f"## {name}", table(["method", "rate", *(f"{count} a label" for count in shots)], lines)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    ended(main)
