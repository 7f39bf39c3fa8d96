"""`accelerate launch` trains one run in several processes, to where one process brings it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import graftlm
from graftlm.training._processes import Processes
from reliability.commands import wait_for
from reliability.runs import options

HERE = Path(__file__).parent
# gloo, as on a machine without GPUs; with --cpu Accelerate starts one process, whatever --num_processes says
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--main_process_port", "0"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def _launched(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*LAUNCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def _written(world: Path, out: Path, method: str, **training: Any) -> Path:
    """A YAML file of a run: batches of 5, whose halves are of unequal size, twice a step."""
    values = options(world, method, out, batch_size=5, **training)
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps({**values, "out": str(out), "predict": True, "data": {"path": values["data"]}}))
    return file


def _history(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix-mlp"])
def test_two_processes_end_in_fp64_where_one_does(method: str, world: Path, tmp_path: Path) -> None:
    for name, launch in (("one", [sys.executable]), ("two", LAUNCH)):
        file = _written(world, tmp_path / name, method)
        subprocess.run([*launch, str(HERE / "exactly.py"), "fit", str(file)], check=True, env=ENVIRONMENT)
    one, two = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(float((two[key] - value).abs().max()) for key, value in one.items()) < 1e-9
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )
    for left, right in zip(_history(tmp_path / "one"), _history(tmp_path / "two"), strict=True):
        assert _flat(right) == pytest.approx(_flat(left), abs=1e-9)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in row.items() if key != "metrics"}, **row.get("metrics", {})}


@pytest.mark.slow
def test_the_command_trains_in_two_processes_speaks_once_and_refuses_once(world: Path, tmp_path: Path) -> None:
    graftlm.fit(**options(world, "lora", tmp_path / "one", batch_size=5), predict=True)
    file = _written(world, tmp_path / "two", "lora")
    done = _launched("-m", "graftlm.cli.main", "fit", str(file))
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert out.count("trained: method + head") == 1
    one, two = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two"))
    assert max(float((two[key] - value).abs().max()) for key, value in one.items()) < 1e-5
    assert (tmp_path / "one/predictions.jsonl").read_text().count("\n") == 12
    again = _launched("-m", "graftlm.cli.main", "fit", str(file))
    assert again.communicate()[1].count("two is not empty") == 1
    assert again.returncode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_all_and_one_process_goes_on(number: int, world: Path, tmp_path: Path) -> None:
    file = _written(world, tmp_path / "run", "lora", max_steps=600, eval_steps=600, patience=0, save_steps=None)
    running = _launched("-m", "graftlm.cli.main", "fit", str(file))
    history = tmp_path / "run/history.jsonl"
    wait_for(lambda: history.exists() and history.stat().st_size > 0)
    os.kill(running.pid, number)
    assert running.communicate()[1].count("which is saved; go on with: graftlm fit --resume") == 1
    assert (tmp_path / "run/checkpoint.json").is_file()
    assert graftlm.fit(resume=tmp_path / "run").steps == 600


def _one_of(count: int, place: int) -> Processes:
    found = Processes.__new__(Processes)
    found.count, found.place = count, place
    return found


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 16])
def test_processes_take_each_row_once(rows: int) -> None:
    parts = [_one_of(3, place).part(range(rows)) for place in range(3)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert _one_of(1, 0).part(range(rows)) == range(rows)


def test_gradients_and_losses_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes of which one has no example, and a tensor that none has a gradient for."""
    used, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    own = _one_of(3, 0)
    own._device = torch.device("cpu")
    used.grad = torch.tensor([1.0, 2.0])
    others = iter([torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64), torch.tensor([10.0, 20.0])])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(next(others)))
    assert own.summed([used, unused], 0.25) == 0.75
    assert used.grad.tolist() == [11.0, 22.0]
    assert unused.grad is None


def test_a_comparison_is_refused_in_several_processes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(graftlm.UserError, match=r"compare trains in one process; .* --ray ADDRESS"):
        graftlm.compare(model=str(world / "model"), data=str(world / "data"), methods=["lora"], out=str(tmp_path / "c"))
