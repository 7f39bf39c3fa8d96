"""Eight parameter-efficient methods on 16 real tweets a label with a real encoder, three seeds of each, in one pass.

    python examples/demo.py [--text "a sentence of your own"]

The methods train beside one frozen model; the best one on validation is then asked, and the report says which of the
differences between them are real.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import graftlm
from graftlm.cli import ConsoleReporter, hush

MODEL = "minilm"
DATA = {"path": str(Path(__file__).parent / "data" / "tweets"), "shots": 16, "limit": {"test": 300}}
OUT = Path("runs/demo")
HEAD = {"pooling": "mean"}  # as the model was trained
TRAINING = {"epochs": 6, "batch_size": 8, "eval_steps": 18, "log_steps": 6}
METHODS: dict[str, tuple[dict[str, Any], float]] = {  # options, learning rate
    "head": ({}, 5e-2),
    "bitfit": ({}, 1e-2),
    "lora": ({"rank": 8}, 3e-3),
    "adapter": ({"variant": "pfeiffer"}, 3e-3),
    "ia3": ({}, 3e-2),
    "prefix": ({"length": 5, "reparametrisation": "none"}, 3e-2),
    "prompt-tuning": ({"length": 5}, 2e-1),
    "unipelt": ({"length": 5, "reparametrisation": "none"}, 3e-3),
}
TEXTS = ("what a day :)", "my phone died again, brilliant", "the meeting is at three", "not bad at all!!!")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", default=[], help="ask the best method about this; may be repeated")
    asked = parser.parse_args().text
    hush()
    started = time.perf_counter()
    reporter = ConsoleReporter()
    shutil.rmtree(OUT, ignore_errors=True)
    methods = [{"name": name, **own, "training": {"learning_rate": rate}} for name, (own, rate) in METHODS.items()]
    found = graftlm.compare(
        model=MODEL, data=DATA, methods=methods, seeds=3, head=HEAD, training=TRAINING, out=str(OUT), reporter=reporter
    )
    run = best(found.rows)
    ask(run, [*TEXTS, *asked], reporter)
    reporter.line(f"{time.perf_counter() - started:.0f} seconds. Ask the best one more:")
    reporter.line(f'  {command()} predict {OUT / "runs" / run} --text "…"')
    reporter.line(f"The report: {OUT / 'report.html'}")


def best(rows: Sequence[Any]) -> str:
    """The best run of the method that is best on validation, by the mean of its seeds."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["method"], []).append(row["validation"] or 0.0)
    method = max(scores, key=lambda name: mean(scores[name]))
    return max((row for row in rows if row["method"] == method), key=lambda row: row["validation"] or 0.0)["run"]


def ask(run: str, texts: list[str], reporter: ConsoleReporter) -> None:
    """Shows what a run says about texts."""
    answers = graftlm.load(OUT / "runs" / run).predict(texts)
    rows = [
        [text, answer["label"], f"{answer['probabilities'][answer['label']]:.2f}"]
        for text, answer in zip(texts, answers, strict=True)
    ]
    reporter.table(f"{run}, the best on validation, is asked", ("text", "label", "probability"), rows)


def command() -> str:
    """`graftlm` of this Python, from here."""
    path = Path(sys.executable).with_name("graftlm")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
