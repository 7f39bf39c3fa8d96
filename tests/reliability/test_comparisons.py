"""A comparison that was left goes on within its groups, and each of its runs ends where `graftlm fit` ends alone."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import graftlm
import tiny
from graftlm.checkpoint import Base
from graftlm.cli.main import code
from graftlm.core.files import read_json
from graftlm.recipes import _group as grouping
from graftlm.recipes import _planned as planning
from graftlm.recipes import compare as comparing
from graftlm.recipes import fit as fitting
from graftlm.recipes._model import TaskModel
from reliability.commands import Commands, wait_for
from reliability.runs import Killed, Killing

TRAINING = {"batch_size": 3, "eval_steps": 4, "learning_rate": 5e-3, "log_steps": 2, "weight_decay": 0.01}
TRAINING |= {"metric": "loss", "max_steps": 8}
OWN = ({}, {"batch_size": 2}, {"accumulation": 2}, {"max_steps": 5}, {"patience": 1, "eval_steps": 1})
FAST = ("lora-dora", "prefix-mlp", "prompt-residual", "unipelt", "pfeiffer", "bitfit")


def _method(name: str, training: dict[str, Any] | None = None) -> dict[str, Any]:
    config = tiny.METHODS[name]
    values = {"name": config.method, **config.model_dump(mode="json")}
    if "dropout" in values:
        values["dropout"] = 0.2
    return values | ({"training": training} if training else {})


def _options(world: Path, out: Path, methods: list[Any], **training: Any) -> dict[str, Any]:
    shared = {"model": str(world / "model"), "data": str(world / "data"), "head": {"dropout": 0.1}, "out": str(out)}
    return shared | {"methods": methods, "training": {**TRAINING, **training}, "together": 3}


def _exact(name: str, head: str | None = None) -> Base:
    from graftlm.checkpoint import load_base

    base = load_base(name, head=head)
    base.model.double()
    return base


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _stored(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter/adapter_model.safetensors")


def _runs(out: Path) -> dict[str, Any]:
    """What each run has come to that does not depend on the time that it took."""
    found = {}
    for folder in sorted((out / "runs").iterdir()):
        lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        history = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
        weights = (folder / "adapter/adapter_model.safetensors").read_bytes()
        record = read_json(folder / "run.json", "record")
        found[folder.name] = (history, weights, [record[name] for name in ("state", "steps", "best_step", "stopped")])
    return found


def _ends_as_alone(world: Path, out: Path, own: list[Any], steps: int, patch: pytest.MonkeyPatch) -> None:
    """In fp64 every stored tensor is the same to 1e-9, whatever the neighbours and whenever a run joins them."""
    for recipe in (comparing, planning, fitting):
        patch.setattr(recipe, "load_base", _exact)
    methods = [method | {"training": OWN[place % len(OWN)]} for place, method in enumerate(own)]
    graftlm.compare(**_options(world, out / "c", methods, max_steps=steps))
    groups = read_json(out / "c/plan.json", "plan")["groups"]
    assert groups[0]["together"] == 3
    for folder in (out / "c/runs").iterdir():
        config = read_json(folder / "run.json", "record")["config"]
        alone = out / "alone" / folder.name
        graftlm.fit(**{**config, "method": config["method"], "out": str(alone), "task": config["task"]})
        wanted, found = _stored(alone), _stored(folder)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=1e-9, rtol=0, msg=f"{folder.name}: {key}")


def test_runs_that_join_and_leave_end_where_fit_ends_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = [_method("lora-dora") | {"rank": 1}, _method("pfeiffer") | {"bottleneck": 2}]
    _ends_as_alone(world, tmp_path, [*smaller, *map(_method, FAST)], 12, monkeypatch)


@pytest.mark.slow
def test_every_method_ends_after_100_steps_where_fit_ends_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends_as_alone(world, tmp_path, [_method(name) for name in tiny.METHODS], 100, monkeypatch)


@pytest.mark.parametrize("steps", [2, 7, 9])
def test_a_comparison_that_is_killed_goes_on_to_the_same_bits(steps: int, world: Path, tmp_path: Path) -> None:
    methods = [_method("lora"), _method("prefix-mlp", {"max_steps": 5}), _method("ptuning"), _method("bitfit")]
    graftlm.compare(**_options(world, tmp_path / "whole", methods))
    killed = _options(world, tmp_path / "killed", methods, save_steps=1)
    with pytest.raises(Killed):
        graftlm.compare(**killed, reporter=Killing(steps))
    done = [path for path in (tmp_path / "killed/runs").glob("*/adapter") if path.is_dir()]
    kept = {path: path.stat().st_mtime_ns for path in done}
    graftlm.compare(out=str(tmp_path / "killed"), resume=True)
    assert _runs(tmp_path / "killed") == _runs(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in done} == kept
    assert bool(done) == (steps > 5)
    assert not (tmp_path / "killed/groups/0").exists()


def test_a_comparison_goes_on_with_the_threads_that_it_was_started_with(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        graftlm.compare(**_options(world, out, ["head", "bitfit"], save_steps=1), reporter=Killing(3))
    for record in out.glob("runs/*/run.json"):
        body = json.loads(record.read_text())
        body["machine"]["threads"] = 2
        record.write_text(json.dumps(body))
    seen: list[int] = []
    monkeypatch.setattr(Killing, "advance", lambda self, *_, **__: seen.append(torch.get_num_threads()))
    graftlm.compare(out=str(out), resume=True, reporter=Killing(-1))
    assert (set(seen), torch.get_num_threads()) == ({2}, 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_comparison_does_not_go_on_with_other_data(split: str, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "own")
    data = tmp_path / "own/data"
    if not (data / "test.jsonl").exists():
        shutil.copy(data / "validation.jsonl", data / "test.jsonl")
    graftlm.compare(**_options(tmp_path / "own", tmp_path / "c", ["head", "bitfit"], max_steps=2))
    shutil.rmtree(tmp_path / "c/runs/bitfit-seed0")
    before = _times(tmp_path / "c")
    kept = (data / f"{split}.jsonl").read_text()
    (data / f"{split}.jsonl").write_text(kept.replace("w", "w1", 1))
    with pytest.raises(graftlm.UserError, match=r"runs/head-seed0 was started on another state of the data .* --out"):
        graftlm.compare(out=str(tmp_path / "c"), resume=True)
    assert _times(tmp_path / "c") == before
    (data / f"{split}.jsonl").write_text(kept)
    graftlm.compare(out=str(tmp_path / "c"), resume=True)
    assert (tmp_path / "c/runs/bitfit-seed0/adapter").is_dir()


def test_ctrl_c_saves_a_comparison_and_leaves_with_130(commands: Commands, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    values = _options(world, out, ["head", "lora"], max_steps=10**6, eval_steps=10**6)
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(values))
    process = commands.start("compare", str(file), "--quiet")
    history = out / "runs/lora-seed0/history.jsonl"
    wait_for(lambda: history.exists() and history.stat().st_size > 0)
    os.kill(process, signal.SIGINT)
    assert commands.end() == (130, f"stopped, and saved; go on with: graftlm compare --resume {out}\n")
    assert (out / "groups/0/checkpoint.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["graftlm.recipes.compare.results", "graftlm.reporting.report.settings"])
def test_a_signal_when_all_runs_have_ended_says_what_goes_on(
    place: str,
    number: int,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "my out"
    config = tmp_path / "a.yaml"
    config.write_text(json.dumps({**_options(world, out, ["head"]), "out": str(out)}))
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda *_: os.kill(os.getpid(), number))
        assert code(["compare", str(config), "--quiet"]) == 128 + number
    said = f"stopped, and saved; go on with: graftlm compare --resume '{out}'"
    assert capfd.readouterr().err.splitlines()[-1] == said
    assert not (out / "report.html").exists()
    before = _times(out / "runs")
    assert code(["compare", "--resume", str(out), "--quiet"]) == 0
    assert (out / "report.html").exists()
    assert _times(out / "runs") == before


def test_a_process_that_is_killed_in_the_middle_of_a_comparison_loses_nothing(
    commands: Commands, world: Path, tmp_path: Path
) -> None:
    methods = [_method("lora"), _method("prefix-mlp"), _method("head")]
    for name in ("whole", "killed"):
        values = _options(world, tmp_path / name, methods, max_steps=40, save_steps=1)
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values))
    assert commands("compare", str(tmp_path / "whole.yaml"), "--quiet")[0] == 0
    out = tmp_path / "killed"
    process = commands.start("compare", str(tmp_path / "killed.yaml"), "--quiet")
    wait_for(lambda: any(int(path.name.split("-")[1]) >= 8 for path in out.glob("groups/0/checkpoint-*")))
    os.kill(process, signal.SIGKILL)
    assert commands.end()[0] == -signal.SIGKILL
    assert commands("compare", "--resume", str(out), "--quiet")[0] == 0
    assert _runs(out) == _runs(tmp_path / "whole")


def test_a_run_whose_evaluation_fails_is_reported_and_its_neighbours_go_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [_method("lora"), _method("bitfit")]
    graftlm.compare(**_options(world, tmp_path / "sound", methods))
    from graftlm.tasks import classification

    calls, metrics = iter(range(100)), classification.metrics

    def failing(*given: Any) -> dict[str, float]:
        if next(calls) == 2:
            raise RuntimeError("this metric is broken")
        return metrics(*given)

    monkeypatch.setattr(classification, "metrics", failing)
    found = graftlm.compare(**_options(world, tmp_path / "c", methods))
    states = {row["run"]: row["state"] for row in found.rows}
    assert sorted(states.values()) == ["done", "failed"]
    sound = next(name for name, state in states.items() if state == "done")
    assert _runs(tmp_path / "c")[sound][1] == _runs(tmp_path / "sound")[sound][1]


@pytest.mark.parametrize(("what", "steps"), [("raises", 4), ("nan", 5)])
def test_a_run_that_fails_in_a_shared_step_leaves_its_neighbours_as_if_it_had_ended(
    what: str, steps: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [_method("lora"), _method("prefix-mlp"), _method("bitfit")]
    bad = _method("lora") | {"rank": 3}  # in one bank with the other LoRA
    ending = bad | {"training": {"max_steps": steps}}  # the shapes of its bank are those of the others' maths too
    graftlm.compare(**_options(world, tmp_path / "without", [*others, ending]) | {"together": 4})
    real = TaskModel.losses

    def losses(model: TaskModel, rows: Any, now: Any, *rest: Any) -> Any:
        mine = next((run for run in rows if "r3" in run), None)
        if mine is not None and now[mine] // 1024 == 4:
            if what == "raises":
                raise RuntimeError("CUDA error: device-side assert triggered")
            for tensor in model.attached.parameters_of(mine).values():
                tensor.data.fill_(torch.nan)
        return real(model, rows, now, *rest)

    monkeypatch.setattr(TaskModel, "losses", losses)
    found = graftlm.compare(**_options(world, tmp_path / "with", [*others, bad]) | {"together": 4})
    states = {row["run"]: (row["state"], row["stopped"]) for row in found.rows}
    failed = next(run for run in states if "r3" in run)
    said = "step 5: RuntimeError: CUDA error" if what == "raises" else "loss nan at step 5"
    assert (states[failed][0], states[failed][1][: len(said)]) == ("failed", said)
    left, wanted = _runs(tmp_path / "with"), _runs(tmp_path / "without")
    assert [left[run] for run in wanted if "r3" not in run] == [wanted[run] for run in wanted if "r3" not in run]


def test_a_run_that_cannot_be_tested_is_reported_and_its_neighbours_are_stored(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = grouping.tested, iter(range(9))

    def tested(*given: Any) -> dict[str, Any]:
        if next(calls) == 0:
            raise ZeroDivisionError("division by zero")
        return real(*given)

    monkeypatch.setattr(grouping, "tested", tested)
    found = graftlm.compare(**_options(world, tmp_path / "c", [_method("lora"), _method("bitfit")]))
    states = {row["state"]: row["stopped"] for row in found.rows}
    assert states == {"failed": "at the end: ZeroDivisionError: division by zero", "done": "done"}


def test_the_plan_holds_memory_and_minutes_of_all_groups_before_anything_is_trained(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, timings, out = grouping.timed, [], tmp_path / "c"

    def timed(*given: Any, **options: Any) -> Any:
        timings.append(list(given[1]))
        return real(*given, **options)

    class Hearing(Killing):
        """Notes what is said, and the plan as it is when the first training begins."""

        def __init__(self) -> None:
            super().__init__(-1)
            self.said: list[str] = []
            self.groups: list[Any] = []

        def line(self, text: str) -> None:
            self.said.append(text)

        def advance(self, steps: int = 1, **numbers: float | str) -> None:
            self.groups = self.groups or read_json(out / "plan.json", "plan")["groups"]

    monkeypatch.setattr(grouping, "timed", timed)
    hearing = Hearing()
    methods = [_method("lora"), _method("bitfit"), _method("full"), _method("lora", {"gradient_checkpointing": True})]
    values = _options(world, out, methods, save_steps=1) | {"seeds": 2}
    graftlm.compare(**values, reporter=hearing)
    assert sorted(map(len, timings)) == [1, 2, 4]  # the second full fine-tuning is like the first
    assert [len(group["runs"]) for group in hearing.groups] == [4, 2, 1, 1]
    assert all(group["minutes"] > 0 and group["memory"] > 0 and group["together"] for group in hearing.groups)
    assert hearing.groups[2]["minutes"] == pytest.approx(hearing.groups[3]["minutes"])
    plan = [text for text in hearing.said if "at once, about" in text or "MB beside the base" in text]
    assert len(plan) == 4
    assert all(text.endswith("minutes") for text in plan)
    total = next(text for text in hearing.said if text.startswith("8 runs in 4 groups, about "))
    assert hearing.said.index(total) < hearing.said.index("group 1 of 4: 4 runs")
