"""Six parameter-efficient methods on 4,140 real tweets with a real encoder; then the best one is asked.

    python examples/demo.py [--text "a sentence of your own"]

Each method sees three quarters of the training tweets once, beside the same frozen model: less than three minutes in
all on two cores.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import graftlm
from graftlm.cli import ConsoleReporter, hush

MODEL = "minilm"
DATA = Path(__file__).parent / "data" / "tweets"
RUNS = Path("runs/demo")
HEAD = {"pooling": "mean"}  # as the model was trained
TRAINING = {"epochs": 0.75, "batch_size": 32}
METHODS: dict[str, tuple[dict[str, Any], float]] = {  # options, learning rate
    "head": ({}, 5e-2),
    "bitfit": ({}, 1e-2),
    "lora": ({"rank": 8}, 3e-3),
    "adapter": ({"variant": "pfeiffer"}, 3e-3),
    "prefix": ({"length": 5, "reparametrisation": "none"}, 3e-2),
    "prompt-tuning": ({"length": 5}, 2e-1),
}
TEXTS = ("what a day :)", "my phone died again, brilliant", "the meeting is at three", "not bad at all!!!")
COLUMNS = ("method", "accuracy", "macro-F1", "trained", "of the base", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", default=[], help="ask the best method about this; may be repeated")
    asked = parser.parse_args().text
    hush()
    started = time.perf_counter()
    reporter = ConsoleReporter()
    results = {name: measure(name, reporter) for name in METHODS}
    rows = [row for _, row in results.values()]
    reporter.table(f"\nTest accuracy on tweets, three classes, {MODEL} frozen", COLUMNS, rows)
    best = max(results, key=lambda name: results[name][0])
    ask(best, [*TEXTS, *asked], reporter)
    reporter.line(f"{time.perf_counter() - started:.0f} seconds. The runs are in {RUNS}. Ask the best one more:")
    reporter.line(f'  {command()} predict {RUNS / best} --text "…"')


def measure(name: str, reporter: ConsoleReporter) -> tuple[float, list[str]]:
    """Trains one method; gives its accuracy on validation, by which the best is chosen, and its row of the table."""
    reporter.line(f"\n{name}")
    options, rate = METHODS[name]
    run = graftlm.fit(
        model=MODEL,
        task="classification",
        data=DATA,
        method={"name": name, **options},
        training={**TRAINING, "learning_rate": rate},
        head=HEAD,
        out=RUNS / name,
        overwrite=True,
        reporter=reporter,
    )
    test = graftlm.evaluate(RUNS / name, DATA, "test", reporter).metrics
    trained = run.parameters["delta"] + run.parameters["head"]
    share = f"{100 * trained / run.parameters['base']:.3f} %"
    scores = [f"{test[metric]:.3f}" for metric in ("accuracy", "macro_f1")]
    return run.metrics["accuracy"], [name, *scores, f"{trained:,}", share, f"{run.seconds:.0f}"]


def ask(name: str, texts: list[str], reporter: ConsoleReporter) -> None:
    """Shows what a run says about texts."""
    answers = graftlm.load(RUNS / name).predict(texts)
    rows = [
        [text, answer["label"], f"{answer['probabilities'][answer['label']]:.2f}"]
        for text, answer in zip(texts, answers, strict=True)
    ]
    reporter.table(f"{name}, the best on validation, is asked", ("text", "label", "probability"), rows)


def command() -> str:
    """`graftlm` of this Python, from here."""
    path = Path(sys.executable).with_name("graftlm")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
