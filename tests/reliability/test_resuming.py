"""A run that was killed and goes on ends as one that was never interrupted, bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import graftlm
import tiny
from graftlm.checkpoint import _state, load_state, save_state
from reliability.runs import Killed, Killing, left, options


def _killed(values: dict[str, Any], *steps: int) -> None:
    """Starts a run and kills it after the first number of steps, goes on and kills it after the next, and so on."""
    for place, count in enumerate(steps):
        with pytest.raises(Killed):
            graftlm.fit(**(values if place == 0 else {"resume": values["out"]}), reporter=Killing(count))


@pytest.mark.parametrize("method", tiny.METHODS)
def test_every_method_goes_on_to_the_same_bits(method: str, world: Path, tmp_path: Path) -> None:
    graftlm.fit(**options(world, method, tmp_path / "whole"))
    _killed(options(world, method, tmp_path / "killed"), 3)
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "adafactor"},
        {"optimizer": "sgd", "schedule": "cosine"},
        {"optimizer": "nadam", "schedule": "constant"},
        {"optimizer": "rprop"},
        {"base_dropout": True},
        {"gradient_checkpointing": True},
        {"precision": "bf16"},
        {"patience": 1, "learning_rate": 0.3},
        {"save_steps": 5},
    ],
    ids=lambda training: "-".join(map(str, training.values())),
)
def test_every_setting_of_the_training_goes_on_to_the_same_bits(
    training: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    graftlm.fit(**options(world, "lora", tmp_path / "whole", **training))
    _killed(options(world, "lora", tmp_path / "killed", **training), 2, 1)
    torch.manual_seed(99)
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_a_run_without_a_checkpoint_starts_from_the_beginning(world: Path, tmp_path: Path) -> None:
    graftlm.fit(**options(world, "bitfit", tmp_path / "whole", save_steps=None))
    _killed(options(world, "bitfit", tmp_path / "killed", save_steps=None), 3)
    assert not list((tmp_path / "killed").glob("checkpoint*"))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_a_run_that_is_done_is_left_as_it_is(world: Path, tmp_path: Path) -> None:
    run = graftlm.fit(**options(world, "bitfit", tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = graftlm.fit(resume=tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert (again.metrics, again.steps, again.stopped, again.parameters) == (
        run.metrics,
        run.steps,
        run.stopped,
        run.parameters,
    )


def test_a_run_goes_on_in_the_folder_that_it_was_moved_to(world: Path, tmp_path: Path) -> None:
    graftlm.fit(**options(world, "head", tmp_path / "whole"))
    _killed(options(world, "head", tmp_path / "killed"), 3)
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    graftlm.fit(resume=tmp_path / "moved")
    assert left(tmp_path / "moved") == left(tmp_path / "whole")


def test_the_checkpoints_that_were_asked_for_stay(world: Path, tmp_path: Path) -> None:
    graftlm.fit(**options(world, "head", tmp_path / "run", keep_checkpoints=2, patience=0))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint*")) == [
        "checkpoint-10",
        "checkpoint-11",
        "checkpoint.json",
    ]


def test_the_seconds_before_the_kill_count_against_the_most(world: Path, tmp_path: Path) -> None:
    _killed(options(world, "head", tmp_path / "run", max_steps=10**6, max_seconds=60, patience=0), 4)
    tensors, values = load_state(tmp_path / "run") or ({}, {})
    values["runs"][0]["outcome"]["seconds"] = 59.9999
    save_state(tmp_path / "run", values["step"], tensors, values)
    run = graftlm.fit(resume=tmp_path / "run")
    assert (run.stopped, run.record["timing"]["train_seconds"] >= 60) == ("out of time", True)
    assert run.steps < 100


def test_other_data_or_another_base_are_refused_and_the_checkpoint_stays(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "own")
    _killed(options(tmp_path / "own", "head", tmp_path / "run"), 4)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    train = tmp_path / "own/data/train.jsonl"
    kept = train.read_text()
    train.write_text(kept.replace("w1", "w2", 1))
    with pytest.raises(graftlm.UserError, match=r"was started on another state of the data .* --overwrite"):
        graftlm.fit(resume=tmp_path / "run")
    train.write_text(kept)
    config = tmp_path / "own/model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_norm_eps": 1e-3}))
    with pytest.raises(graftlm.UserError, match="was started on another state of the base model"):
        graftlm.fit(resume=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_other_versions_are_warned_of(world: Path, tmp_path: Path) -> None:
    class Hearing(Killing):
        said: list[str] = []  # noqa: RUF012

        def warn(self, text: str) -> None:
            self.said.append(text)

    _killed(options(world, "head", tmp_path / "run"), 4)
    record = tmp_path / "run/run.json"
    body = json.loads(record.read_text())
    body["versions"]["torch"] = "1.0"
    record.write_text(json.dumps(body))
    graftlm.fit(resume=tmp_path / "run", reporter=Hearing(-1))
    assert [text for text in Hearing.said if "was started with torch 1.0, here it is" in text]


def test_threads_are_those_that_the_run_was_started_with(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed(options(world, "head", tmp_path / "run"), 4)
    record = tmp_path / "run/run.json"
    body = json.loads(record.read_text())
    body["machine"]["threads"] = 2
    record.write_text(json.dumps(body))
    seen: list[int] = []
    monkeypatch.setattr(Killing, "advance", lambda self, *_, **__: seen.append(torch.get_num_threads()))
    graftlm.fit(resume=tmp_path / "run", reporter=Killing(-1))
    assert (set(seen), torch.get_num_threads()) == ({2}, 1)


@pytest.mark.parametrize("damage", ["pointer", "missing", "tensors", "values", "bit", "version"])
def test_a_damaged_checkpoint_is_named_and_so_is_the_way_out(
    damage: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    _killed(options(world, "head", out), 4)
    (folder,) = (path for path in out.glob("checkpoint-*"))
    if damage == "pointer":
        (out / "checkpoint.json").write_text('{"checkpoint": "../elsewhere"}')
    elif damage == "missing":
        shutil.rmtree(folder)
    elif damage == "tensors":
        (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-5])
    elif damage == "values":
        (folder / "state.json").write_text("{")
    elif damage == "bit":
        content = bytearray((folder / "state.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "state.safetensors").write_bytes(content)
    else:
        tensors, values = load_state(out) or ({}, {})
        monkeypatch.setattr(_state, "VERSION", 99)
        save_state(out, values["step"], tensors, {**values, "version": 3})
        monkeypatch.undo()
    with pytest.raises(graftlm.UserError, match=r"without .*checkpoint\.json the run starts from the beginning"):
        graftlm.fit(resume=out)
    (out / "checkpoint.json").unlink()
    assert graftlm.fit(resume=out).steps > 4


def test_what_cannot_be_resumed_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    with pytest.raises(graftlm.UserError, match=r"no run at .*nowhere; --resume takes the folder"):
        graftlm.fit(resume=tmp_path / "nowhere")
    with pytest.raises(graftlm.UserError, match="holds no run that was started"):
        graftlm.fit(resume=tmp_path)
    with pytest.raises(graftlm.UserError, match="resume takes the run's own model, data and out"):
        graftlm.fit(resume=tmp_path, model="minilm")
    with pytest.raises(graftlm.UserError, match="data is missing; fit needs model, data and out, or resume"):
        graftlm.fit(model="minilm", out=tmp_path / "out")
    (tmp_path / "run.json").write_text('{"config": {}}')
    with pytest.raises(graftlm.UserError, match="a graftlm that could not resume"):
        graftlm.fit(resume=tmp_path)


def test_an_unfinished_run_is_not_written_over_unasked(world: Path, tmp_path: Path) -> None:
    values = options(world, "head", tmp_path / "run")
    _killed(values, 4)
    with pytest.raises(graftlm.UserError, match=r"is not empty; go on with graftlm fit --resume .*or pass --overwrite"):
        graftlm.fit(**values)
    graftlm.fit(**{**values, "overwrite": True})
    assert not list((tmp_path / "run").glob("checkpoint*"))
