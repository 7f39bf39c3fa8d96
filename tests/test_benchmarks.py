"""The benchmark of methods chooses, resumes and reports; its runs are made up here, for speed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graftlm.core.errors import UserError
from graftlm.core.registry import facts

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARAMETERS = {"delta": 90, "head": 10, "kept": 50, "base": 1000}


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("methods")


@pytest.fixture
def runs(methods: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runs that were started. The best rate on validation is 1e-3; prefix is refused."""
    started: list[dict[str, Any]] = []

    def apart(_: Any, job: dict[str, Any]) -> dict[str, Any]:
        started.append(job)
        row = {
            "validation": 0.9 if job["rate"] == 1e-3 else 0.5,
            "score": None if "timed" in job else 0.7 + job["seed"] / 10,
            "split": "test",
            "parameters": PARAMETERS,
            "examples_per_second": 700.0 if "timed" in job else 100.0 * (1 + job["seed"]),
            "seconds": 1.0,
            "peak_memory_bytes": 2**30,
            "versions": {"torch": "2"},
            "processor": "a processor",
        }
        return {"refused": "no prefix here"} if job["label"] == "prefix" else row

    monkeypatch.setattr(importlib.import_module("rows"), "apart", apart)
    return started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one data set of 40 training examples."""
    made = tmp_path / "data" / "sst2"
    made.mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 5), ("test", 5)):
        rows = [json.dumps({"text": f"{split} {place}", "label": place % 2}) for place in range(count)]
        (made / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def _go(methods: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    given = ["methods.py", "--data", str(folder / "data"), "--to", str(folder / "out" / "results"), *more]
    monkeypatch.setattr(sys, "argv", [*given, "--precision", "bf16"])
    return methods.main()


def test_the_rate_is_chosen_on_validation_and_all_seeds_at_it_are_reported_on_test(
    methods: Any, runs: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _go(methods, folder, monkeypatch, "--methods", "lora", "--sets", "sst2") == 0
    assert [(job["rate"], job["seed"]) for job in runs] == [
        *((rate, 0) for rate in (5e-4, 1e-3, 3e-3, 1e-2)),
        *((1e-3, seed) for seed in (1, 2)),
    ]
    text = (folder / "out" / "results.md").read_text()
    assert "| lora | 0.001 (ours) | 100 | 50 | 0.800 ± 0.100 | 3 | 200 | 1.00 | bf16 |" in text
    assert "Measured on a processor; torch 2." in text
    assert _go(methods, folder, monkeypatch, "--methods", "lora", "--sets", "sst2", "--timed") == 0
    assert [(job["rate"], job["timed"]) for job in runs[6:]] == [(1e-3, 30)]
    assert (
        "| lora | 0.001 (ours) | 100 | 50 | 0.800 ± 0.100 | 3 | 700 | 1.00 | bf16 |"
        in (folder / "out" / "results.md").read_text()
    )


def test_a_row_that_is_there_is_not_run_again_unless_a_setting_changed(
    methods: Any, runs: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--methods", "lora", "--sets", "sst2")
    _go(methods, folder, monkeypatch, *given)
    first, rows = len(runs), (folder / "out" / "results.jsonl").read_text().splitlines()
    assert len(rows) == first
    (folder / "out" / "results.jsonl").write_text("\n".join(rows[:-2]) + "\n")  # killed before the last two
    _go(methods, folder, monkeypatch, *given)
    assert [job["seed"] for job in runs[first:]] == [1, 2]
    _go(methods, folder, monkeypatch, *given, "--max-steps", "2")
    assert len(runs) == 2 * first + 2
    assert "at most 2 steps" in (folder / "out" / "results.md").read_text()


def test_a_refusal_is_reported_and_absent_sets_and_methods_are_skipped_aloud(
    methods: Any,
    runs: list[dict[str, Any]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = facts("graftlm.methods")
    monkeypatch.setattr(methods, "facts", lambda _: {"prefix": there["prefix"]})
    assert _go(methods, folder, monkeypatch, "--methods", "prefix", "lora") == 0
    out = capsys.readouterr().out
    assert "lora: skipped, there is no method lora here" in out
    assert "snli: skipped, there is no " in out
    assert len(runs) == 1
    assert "| prefix | refused: no prefix here |" in (folder / "out" / "results.md").read_text()


def test_a_run_that_fails_leaves_no_row_and_a_code(
    methods: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def apart(*_: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(importlib.import_module("rows"), "apart", apart)
    assert _go(methods, folder, monkeypatch, "--methods", "ia3", "lora", "--sets", "sst2") == 1
    assert "out of memory" in capsys.readouterr().out
    assert not (folder / "out" / "results.jsonl").exists()


def test_every_run_sees_the_same_examples_of_train(methods: Any, folder: Path) -> None:
    options = SimpleNamespace(data=folder / "data", sets=["sst2"], examples=10, validation=3)
    seen = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        ((_, made),) = methods._subsets(options, folder / name)
        seen.append((made / "train.jsonl").read_text())
        assert len((made / "validation.jsonl").read_text().splitlines()) == 3
        assert len((made / "test.jsonl").read_text().splitlines()) == 5
    assert seen[0] == seen[1]
    assert len(set(seen[0].splitlines())) == 10


def test_few_examples_are_trained_at_the_rate_that_was_best_on_many(
    methods: Any,
    runs: list[dict[str, Any]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _go(methods, folder, monkeypatch, "--methods", "lora", "--sets", "sst2")
    runs.clear()
    few = importlib.import_module("few_shot")
    given = ["--methods", "lora", "head", "--sets", "sst2", "--shots", "16", "--seeds", "2", "--precision", "fp32"]
    paths = ["--data", folder / "data", "--rates", folder / "out" / "results.jsonl", "--to", folder / "out" / "few"]
    monkeypatch.setattr(sys, "argv", ["few_shot.py", *given, *map(str, paths)])
    assert few.main() == 0
    assert [(job["label"], job["rate"], job["shots"], job["seed"]) for job in runs] == [
        ("lora", 1e-3, 16, 0),
        ("lora", 1e-3, 16, 1),
    ]
    assert "head on sst2: skipped, " in capsys.readouterr().out
    assert "| lora | 0.001 | 0.750 ± 0.071 (2) |" in (folder / "out" / "few.md").read_text()


def test_each_method_has_rates_at_most_four_and_a_source(methods: Any) -> None:
    table = methods.entries(facts("graftlm.methods"))
    assert {entry.method for entry in table.values()} >= set(facts("graftlm.methods"))
    assert all(0 < len(entry.rates) <= 4 and entry.source for entry in table.values())
    made = methods.entries({"new": {"LEARNING_RATE": 1e-3, "EXAMPLE": {"k": 2}}})["new"]
    assert (made.rates, made.options) == ((3e-4, 1e-3, 3e-3), {"k": 2})


def test_an_unknown_method_names_the_nearest(methods: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match='did you mean "lora"'):
        _go(methods, folder, monkeypatch, "--methods", "lor")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "methods.py", "--methods", "lor"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, 'error: no method "lor"; did you mean "lora"?\n')


def test_speed_compares_with_lora_and_says_which_limits_hold(
    methods: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = importlib.import_module("speed")
    monkeypatch.setattr(speed, "SHAPE", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    assert set(speed.compare(["lora", "prompt-tuning"], rows=2, tokens=4, rounds=2)) == {"lora", "prompt-tuning"}
    monkeypatch.setattr(speed, "compare", lambda *_: {"lora": 0.1, "prefix": 0.12})
    assert speed.report(["prefix"], 2, 4, 2) is False
    assert "1.20 × lora, OVER 1.15" in capsys.readouterr().out
    monkeypatch.setattr(speed, "compare", lambda *_: {"lora": 0.1, "prefix": 0.11})
    assert speed.report(["prefix"], 2, 4, 2) is True
