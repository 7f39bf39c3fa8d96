"""A run whose numbers are no longer finite says so and where, and no file ever holds a NaN."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]
ONE_WILD_STEP = ("--method", "lora", "--lr", "1e30", "-o", "training.warmup=0", "-o", "training.max_steps=1")


def _strict(text: str) -> Any:
    """JSON as other readers take it."""

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refused)


@pytest.fixture
def diverged(graftlm: Command, model: str, data: str) -> Path:
    """A run that has no validation split to notice its wild step."""
    assert graftlm("fit", "--model", model, "--data", f"{data}/train.jsonl", "--out", "wild", *ONE_WILD_STEP)[0] == 0
    return Path("wild")


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_a_validation_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    metric: str, graftlm: Command, model: str, data: str
) -> None:
    flags = ("--model", model, "--data", data, "--out", "out", "-o", f"training.metric={metric}", "--quiet")
    found, out, err = graftlm("fit", *flags, *ONE_WILD_STEP)
    said = (
        r'error: run "run" stopped: validation loss (nan|inf) at step 1, learning rate 1e\+30; a lower rate may help\n'
    )
    assert (found, out) == (2, "")
    assert re.fullmatch(said, err)
    assert sorted(path.name for path in Path("out").iterdir()) == ["history.jsonl", "run.json"]
    assert _strict(Path("out/run.json").read_text())["state"] == "failed"
    rows = [_strict(line) for line in Path("out/history.jsonl").read_text().splitlines()]
    assert (rows[-1]["step"], rows[-1]["stopped"][:15]) == (1, "validation loss")


def test_evaluating_a_diverged_run_writes_nothing_and_keeps_its_metrics(
    diverged: Path, graftlm: Command, data: str
) -> None:
    (diverged / "metrics.json").write_text("{}")
    found, out, err = graftlm("evaluate", diverged, "--data", data, "--predict", "--quiet")
    assert (found, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: wild has loss (nan|inf) on test, so nothing is written; its training diverged", err)
    assert (diverged / "metrics.json").read_text() == "{}"
    assert not (diverged / "predictions.jsonl").exists()


def test_a_diverged_run_gives_no_answers(diverged: Path, graftlm: Command) -> None:
    found, out, err = graftlm("predict", diverged, "--text", "the day is good", "--quiet")
    assert (found, out) == (2, "")
    assert err == "error: this run gives no finite number for input 1: its training diverged\n"


def test_every_file_of_a_sound_run_is_strict_json(run: Path) -> None:
    for file in ("run.json", "metrics.json"):
        _strict((run / file).read_text())
    assert all(_strict(line) for line in (run / "history.jsonl").read_text().splitlines())
