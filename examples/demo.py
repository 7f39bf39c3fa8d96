"""Six parameter-efficient methods on 4,200 real tweets with a real encoder, and the best one asked.

    python examples/demo.py [--text "a sentence of your own"]
"""

import argparse
import time
from pathlib import Path

import graftlm
from graftlm.cli import ConsoleReporter, hush

DATA = Path(__file__).parent / "data" / "tweets"
RUNS = Path("runs/demo")
MODEL = "minilm"
TRAINING = {"batch_size": 32, "epochs": 1}
METHODS = {
    "head": {"training": {"learning_rate": 1e-2}},
    "bitfit": {"training": {"learning_rate": 5e-3}},
    "lora": {"training": {"learning_rate": 3e-3}},
    "adapter": {"training": {"learning_rate": 3e-3}},
    "prefix": {"options": {"length": 10}, "training": {"learning_rate": 1e-2}},
    "prompt-tuning": {"options": {"length": 10}, "training": {"learning_rate": 5e-2}},
}
TEXTS = ("what a day :)", "my phone died again, brilliant", "the meeting is at three", "not bad at all!!!")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", default=[], help="ask the best method about this too")
    options = parser.parse_args()
    hush()
    reporter = ConsoleReporter()
    started = time.perf_counter()
    rows: list[list[str]] = []
    scores: dict[str, float] = {}
    for name, settings in METHODS.items():
        reporter.line(f"\n{name}")
        out = RUNS / name
        run = graftlm.fit(
            model=MODEL,
            data=DATA,
            task="classification",
            method={"name": name, **settings.get("options", {})},
            training=TRAINING | settings["training"],
            out=out,
            overwrite=True,
            reporter=reporter,
        )
        test = graftlm.evaluate(out, DATA, "test")
        scores[name] = run.metrics["accuracy"]
        trained = run.parameters["delta"] + run.parameters["head"]
        rows.append(
            [
                name,
                f"{run.metrics['accuracy']:.3f}",
                f"{test.metrics['accuracy']:.3f}",
                f"{test.metrics['macro_f1']:.3f}",
                f"{run.parameters['kept']:,}",
                f"{100 * run.parameters['kept'] / run.parameters['base']:.3f} %",
                f"{trained:,}",
                f"{run.seconds:.0f}",
            ]
        )
    columns = ("method", "validation", "test", "test macro-F1", "stored", "of the base", "trained", "seconds")
    reporter.table(f"\naccuracy on tweets, three classes, {MODEL}", columns, rows)
    best = max(scores, key=lambda name: scores[name])
    texts = [*TEXTS, *options.text]
    answers = graftlm.load(RUNS / best).predict(texts)
    shown = [
        [text, answer["label"], f"{answer['probabilities'][answer['label']]:.2f}"]
        for text, answer in zip(texts, answers, strict=True)
    ]
    reporter.table(f"\n{best}, the best on validation, asked", ("text", "label", "probability"), shown)
    reporter.line(f"\n{time.perf_counter() - started:.0f} seconds; the runs are in {RUNS}/")
    reporter.line(f'ask more: .venv/bin/graftlm predict {RUNS / best} --text "…"')


if __name__ == "__main__":
    main()
