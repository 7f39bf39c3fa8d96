"""A run whose numbers are no longer finite stops with its best weights in place."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import graftlm
from graftlm.recipes._model import TaskModel
from reliability.runs import Killed, Killing, options


def _broken_at(step: int, monkeypatch: pytest.MonkeyPatch, what: float) -> None:
    real = TaskModel.losses

    def losses(model: TaskModel, rows: Any, steps: Any, *rest: Any) -> Any:
        found = real(model, rows, steps, *rest)
        return {run: loss * what if steps[run] // 1024 == step - 1 else loss for run, loss in found.items()}

    monkeypatch.setattr(TaskModel, "losses", losses)


@pytest.mark.parametrize("what", [math.nan, math.inf])
def test_a_run_that_diverges_keeps_the_weights_of_its_best_evaluation(
    what: float, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = options(world, "lora", tmp_path / "good", max_steps=4, schedule="constant", warmup=0)
    good = graftlm.fit(**values)
    _broken_at(5, monkeypatch, what)
    values = options(world, "lora", tmp_path / "bad", schedule="constant", warmup=0)
    with pytest.raises(graftlm.UserError) as caught:
        graftlm.fit(**values)
    assert str(caught.value) == (
        f'run "run" stopped: loss {what} at step 5, learning rate 0.005; a lower rate may help; '
        f"{tmp_path}/bad/adapter holds its best weights, of step {good.record['best_step']}"
    )
    one, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("good", "bad"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    record = json.loads((tmp_path / "bad/run.json").read_text())
    assert (record["state"], record["steps"]) == ("failed", 5)
    assert json.loads((tmp_path / "bad/metrics.json").read_text())["metrics"] == good.metrics
    assert graftlm.load(tmp_path / "bad").predict(["w1 w2"])
    with pytest.raises(graftlm.UserError, match=r"bad stopped by itself: loss .* train it anew with --overwrite"):
        graftlm.fit(resume=tmp_path / "bad")


def test_one_that_diverges_before_its_first_evaluation_has_no_adapter_but_its_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken_at(2, monkeypatch, math.nan)
    with pytest.raises(graftlm.UserError, match=r"^run \"run\" stopped: loss nan at step 2, .* may help$"):
        graftlm.fit(**options(world, "lora", tmp_path / "bad"))
    assert sorted(path.name for path in (tmp_path / "bad").iterdir()) == [
        "checkpoint-1",
        "checkpoint.json",
        "history.jsonl",
        "run.json",
    ]


def test_a_run_that_goes_on_diverges_where_it_would_have(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken_at(5, monkeypatch, math.nan)
    with pytest.raises(Killed):
        graftlm.fit(**options(world, "lora", tmp_path / "bad"), reporter=Killing(3))
    with pytest.raises(graftlm.UserError, match="loss nan at step 5"):
        graftlm.fit(resume=tmp_path / "bad")
