"""Groups of a comparison on a Ray cluster: machines are lost, nothing else is."""

import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm.core.files import read_json
from reliability.commands import wait_for
from reliability.runs import Killing

absent = importlib.util.find_spec("ray") is None
real = [
    pytest.mark.slow,
    pytest.mark.skipif(absent, reason="Ray is not installed; pip install 'graftlm[ray]' brings it"),
]
TRAINING = {"batch_size": 3, "eval_steps": 50, "log_steps": 50, "learning_rate": 5e-3, "metric": "loss"}
LONG, SHORT = {"max_steps": 400}, {"max_steps": 5, "eval_steps": 5}


class Hearing(Killing):
    def __init__(self) -> None:
        super().__init__(-1)
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def _options(world: Path, out: Path, **training: Any) -> dict[str, Any]:
    methods = [{"name": name, "training": steps} for steps in (LONG, SHORT) for name in ("lora", "bitfit")]
    training = {**TRAINING, "save_steps": 10, **training}
    paths = {"model": str(world / "model"), "data": str(world / "data"), "out": str(out)}
    return {**paths, "methods": methods, "training": training, "together": 2}


def _step(out: Path, place: int) -> int:
    pointer = out / f"groups/{place}/checkpoint.json"
    try:
        return int(read_json(pointer, "pointer")["checkpoint"].split("-")[1])
    except graftlm.UserError:
        return 0


def _states(out: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["state"] for path in sorted(out.glob("runs/*/run.json"))}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors and two machines of one each, in processes of their own."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.machines = [made.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
    yield made
    made.shutdown()


class TestReal:
    pytestmark = real

    def test_a_machine_that_is_killed_costs_nothing_but_time(self, cluster: Any, world: Path, tmp_path: Path) -> None:
        out, hearing = tmp_path / "c", Hearing()
        at: dict[int, int] = {}
        after: dict[int, list[int]] = {0: [], 1: []}
        kept: dict[Path, int] = {}

        def kill() -> None:
            wait_for(lambda: min(_step(out, 0), _step(out, 1)) >= 20, 0.01)
            at.update({place: _step(out, place) for place in (0, 1)})
            done = [name for name, state in _states(out).items() if state == "done"]
            kept.update({path: path.stat().st_mtime_ns for name in done for path in out.glob(f"runs/{name}/run.json")})
            cluster.remove_node(cluster.machines.pop(), allow_graceful=False)
            while "done" not in ends:
                for place in (0, 1):
                    after[place] += [step for step in [_step(out, place)] if step]
                time.sleep(0.05)

        ends: list[str] = []
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            graftlm.compare(**_options(world, out), ray=cluster.address, reporter=hearing)
        finally:
            ends.append("done")
            killer.join()
        assert set(_states(out).values()) == {"done"}
        assert len(_states(out)) == 4
        assert len(kept) == 2
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert any("was lost with its machine; it goes on from its last checkpoint" in text for text in hearing.said)
        assert all(min(after[place]) >= at[place] for place in (0, 1))
        here = tmp_path / "here"
        here.mkdir()
        for name in ("compare.json", "plan.json"):  # the same groups, in one process
            shutil.copy(out / name, here / name)
        graftlm.compare(out=str(here), resume=True)
        for run in (here / "runs").iterdir():
            wanted, found = (path / "adapter/adapter_model.safetensors" for path in (run, out / "runs" / run.name))
            assert found.read_bytes() == wanted.read_bytes(), run.name

    def test_ctrl_c_has_the_machines_save_and_the_comparison_goes_on_anywhere(
        self, cluster: Any, world: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "c"

        def interrupt() -> None:
            wait_for(lambda: _step(out, 0) >= 20, 0.01)
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(
            KeyboardInterrupt, match="stopped, and saved; go on with: graftlm compare --resume .* --ray"
        ):
            graftlm.compare(**_options(world, out, max_steps=4000), ray=cluster.address)
        interrupter.join()
        assert "running" in _states(out).values()
        at = _step(out, 0)
        assert at >= 20
        assert not (out / ".stop").exists()
        graftlm.compare(out=str(out), resume=True)
        assert set(_states(out).values()) == {"done"}

    def test_a_folder_that_a_machine_does_not_see_is_named(
        self, cluster: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from graftlm.recipes import _cluster

        monkeypatch.setattr(_cluster, "SHARED", ".elsewhere")
        with pytest.raises(graftlm.UserError, match=r"a machine of the Ray cluster, does not see .*/c; name an --out"):
            graftlm.compare(**_options(world, tmp_path / "c"), ray=cluster.address)
