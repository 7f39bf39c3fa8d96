"""Every method on 1,000 training examples of sst2, snli and trec with MiniLM: accuracy, size, speed and memory.

    python benchmarks/methods.py [--data ../shared/data] [--sets sst2 snli trec] [--methods lora prefix]
    python benchmarks/methods.py --timed    # then a short run of each method for its speed, on a machine at rest
    python benchmarks/methods.py --speed    # Prefix and UniPELT against LoRA, interleaved

The learning rate is the best of at most four (`rates.py`) on validation with seed 0; then the other of `--seeds` seeds
are trained at it, and all at that rate are evaluated on test. Each run has a process of its own, which its peak memory
is that of. `--to` names the report (`.md`) and the raw rows (`.jsonl`); a row that is there is not run again, so the
benchmark may be killed and started anew.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rates import Entry, entries
from report import best_rate, of, report
from rows import Row, Rows, ended, processor, quicker

from graftlm.core.errors import UserError, unknown
from graftlm.core.files import write_text
from graftlm.core.registry import facts

ROOT = Path(__file__).parents[1]
SETS = ("sst2", "snli", "trec")
SEARCH_SEED = 0  # of the runs that choose a rate
TIMED_STEPS = 30
SUBSET_SEED = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the datasets' folder")
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET")
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="rows of rates.py; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--examples", type=int, default=1000, help="of train")
    parser.add_argument("--validation", type=int, default=500, help="examples of validation")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of new runs; what is quicker here by default")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results" / "methods")
    parser.add_argument("--timed", action="store_true", help="time the methods whose rate is known, train nothing else")
    parser.add_argument("--speed", action="store_true", help="compare training steps, train nothing")
    parser.add_argument("--rounds", type=int, default=30, help="of --speed")
    parser.add_argument("--tokens", type=int, default=64, help="a row, of --speed")
    options = parser.parse_args()
    if options.speed:
        import speed

        return 0 if speed.report(options.methods, options.batch_size, options.tokens, options.rounds) else 1
    return benchmark(options)


def benchmark(options: argparse.Namespace) -> int:
    """All runs that are not in the rows yet, then the report; 1 where a run failed."""
    known = facts("graftlm.methods")
    table = _chosen(entries(known), options.methods, known)
    settings = {"model": "minilm", "examples": options.examples, "batch_size": options.batch_size}
    settings |= {"validation": options.validation}
    settings |= {"epochs": options.epochs, "max_steps": options.max_steps}
    options.to.parent.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.to.with_suffix(".jsonl"), settings, one, {"precision": options.precision or quicker()})
    with tempfile.TemporaryDirectory() as work:
        sets = list(_subsets(options, Path(work)))
        for name, folder in sets:
            for label, entry in table.items():
                if options.timed:
                    _time(rows, name, folder, label, entry)
                else:
                    _measure_all(rows, name, folder, label, entry, options.seeds)
    write_text(options.to.with_suffix(".md"), report(rows.mine(), table, [name for name, _ in sets], settings))
    print(f"{options.to.with_suffix('.md')}: written; {rows.failed} runs failed")
    return 1 if rows.failed else 0


def _chosen(table: dict[str, Entry], asked: Sequence[str], known: Any) -> dict[str, Entry]:
    """The rows asked for by their label or their method; those of methods that are not here are left out aloud."""
    for name in asked:
        if name not in table and not any(entry.method == name for entry in table.values()):
            raise unknown("method", name, table)
    found = {label: entry for label, entry in table.items() if not asked or {label, entry.method} & {*asked}}
    for label in [label for label, entry in found.items() if entry.method not in known]:
        print(f"{label}: skipped, there is no method {found.pop(label).method} here")
    return found


def _subsets(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, Path]]:
    """Each data set that is there, cut down to the examples asked for, drawn by a seed."""
    for name in options.sets:
        source = options.data / name
        if not (source / "train.jsonl").exists():
            print(f"{name}: skipped, there is no {source / 'train.jsonl'}")
            continue
        (work / name).mkdir()
        for file in sorted(source.glob("*.jsonl")):
            lines = file.read_text(encoding="utf-8").splitlines()
            most = {"train": options.examples, "validation": options.validation}.get(file.stem, len(lines))
            if most < len(lines):
                lines = random.Random(SUBSET_SEED).sample(lines, most)
            if file.stem == "test" and "label" not in json.loads(lines[0]):
                continue  # then validation is reported on
            (work / name / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield name, work / name


def _measure_all(rows: Rows, name: str, folder: Path, label: str, entry: Entry, seeds: int) -> None:
    """The search for a rate, then the seeds at the best one; nothing more where the model is refused."""
    job = {"set": name, "label": label, "method": {"name": entry.method, **entry.options}}
    found: list[Row] = []
    for rate in entry.rates:
        row = rows.measured({**job, "rate": rate, "seed": SEARCH_SEED}, folder)
        if row is not None and "refused" in row:
            return
        found += [row] if row is not None else []
    best = best_rate(found, entry)
    for seed in range(SEARCH_SEED, SEARCH_SEED + seeds) if best is not None else ():
        rows.measured({**job, "rate": best, "seed": seed}, folder)


def _time(rows: Rows, name: str, folder: Path, label: str, entry: Entry) -> None:
    """A short run at the rate that was found, whose speed is reported in place of the long runs'."""
    method = {"name": entry.method, **entry.options}
    rate = best_rate([row for row in of(rows.mine(), label, entry) if row["job"]["set"] == name], entry)
    if rate is not None:
        job = {"set": name, "label": label, "method": method, "rate": rate, "seed": SEARCH_SEED}
        rows.measured({**job, "timed": TIMED_STEPS}, folder)


def one(job: Row) -> Row:
    """One run, in this process: its scores, its numbers, its speed and its memory."""
    import graftlm
    from graftlm.cli import hush

    hush()
    training = {"learning_rate": job["rate"], "epochs": job["epochs"], "batch_size": job["batch_size"]}
    training["precision"] = job["precision"]
    if (steps := job.get("timed", job["max_steps"])) is not None:
        training["max_steps"] = steps
    with tempfile.TemporaryDirectory() as out:
        try:
            run = graftlm.fit(
                model=job["model"],
                data=job["folder"],
                out=f"{out}/run",
                method=job["method"],
                training=training,
                head={"pooling": "mean"},  # as MiniLM was trained
                seed=job["seed"],
            )
        except UserError as error:
            return {"refused": str(error)}
        split = "test" if (Path(job["folder"]) / "test.jsonl").exists() else "validation"
        tested = None if "timed" in job else graftlm.evaluate(f"{out}/run", job["folder"], split)
    return {
        "validation": run.metrics["accuracy"],
        "score": None if tested is None else tested.metrics["accuracy"],
        "split": split,
        "parameters": dict(run.parameters),
        "examples_per_second": run.record["timing"]["train_examples_per_second"],
        "seconds": round(run.seconds, 1),
        "peak_memory_bytes": run.record["peak_memory_bytes"],
        "versions": run.record["versions"],
        "processor": processor(),
    }


if __name__ == "__main__":
    ended(main)
