"""Groups of a comparison on a Ray cluster: machines are lost, nothing else is."""

import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import graftlm
from graftlm.core.files import read_json
from graftlm.recipes import _cluster
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
        with pytest.raises(KeyboardInterrupt, match=r"^stopped, and saved; go on with: .* --ray"):
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
        monkeypatch.setattr(_cluster, "SHARED", ".elsewhere")
        with pytest.raises(graftlm.UserError, match=r"a machine of the Ray cluster, does not see .*/c; name an --out"):
            graftlm.compare(**_options(world, tmp_path / "c"), ray=cluster.address)


class Lost(Exception):
    """What Ray raises where a machine or a worker is lost."""


class Bug(Lost):
    """What Ray raises for an error of the task itself."""

    cause = ZeroDivisionError("division by zero")


class FakeRay:
    """Machines that do a task when it is waited for; `loses(name, job)` says by which error one is lost instead."""

    def __init__(self, loses: Callable[[str, Any], Exception | None] = lambda name, job: None, machines: int = 2):
        self.exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Bug)
        self.loses, self.began, self.machines = loses, list[str](), machines
        self.closed = False

    def init(self, address: str, **options: Any) -> None:
        if address != "auto":
            raise ConnectionError("nobody is there")

    def shutdown(self) -> None:
        self.closed = True

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 2.0}, "NodeID": str(place)}
            | {"NodeManagerHostname": f"machine{place}", "NodeManagerAddress": f"10.0.0.{place}"}
            for place in range(self.machines)
        ]

    def remote(self, work: Callable[[Any], Any]) -> Any:
        def begin(job: Any) -> Callable[[], Any]:
            self.began.append(work.__name__)
            return lambda: self._done(work, json.loads(json.dumps(job)))

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=begin))

    def _done(self, work: Callable[[Any], Any], job: Any) -> Any:
        error = self.loses(work.__name__, job)
        if error is not None:
            raise error
        return json.loads(json.dumps(work(job)))

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, task: Callable[[], Any]) -> Any:
        return task()

    def cancel(self, task: Any, force: bool) -> None:
        raise AssertionError("nothing is left to cancel")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def made(*given: Any, **options: Any) -> FakeRay:
        ray = FakeRay(*given, **options)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        modules = {"ray": ray, "ray.util.scheduling_strategies": strategies}
        monkeypatch.setattr(_cluster, "importlib", SimpleNamespace(import_module=modules.__getitem__))
        return ray

    return made


def _quick(world: Path, out: Path) -> dict[str, Any]:
    values = _options(world, out, max_steps=4, eval_steps=4)
    return values | {"methods": ["head", "bitfit", {"name": "head", "training": {"batch_size": 2}}]}


def test_groups_are_dealt_to_machines_and_one_that_is_lost_is_begun_again(
    fake: Callable[..., FakeRay], world: Path, tmp_path: Path
) -> None:
    lost = iter([None, Lost("node died"), None, None])
    ray = fake(lambda name, job: next(lost) if name == "train" else None)
    hearing = Hearing()
    graftlm.compare(**_quick(world, tmp_path / "c"), ray="auto", reporter=hearing)
    assert set(_states(tmp_path / "c").values()) == {"done"}
    groups = read_json(tmp_path / "c/plan.json", "plan")["groups"]
    assert sorted(len(group["runs"]) for group in groups) == [1, 2]
    assert all(group["minutes"] > 0 for group in groups)
    assert ray.began == ["look", "look", "prepare", "train", "train", "train"]
    assert ray.closed
    assert any(text.endswith("was lost with its machine; it goes on from its last checkpoint") for text in hearing.said)
    assert "Ray cluster at auto: 2 machines, 2 groups at once" in hearing.said
    assert not {".stop", ".shared"} & {path.name for path in (tmp_path / "c").iterdir()}


@pytest.mark.parametrize(
    ("error", "said"),
    [(Lost(), "group 1 was lost 3 times without getting any further"), (Bug(), "division by zero")],
)
def test_a_group_that_cannot_be_trained_leaves_the_others_trained(
    error: Exception, said: str, fake: Callable[..., FakeRay], world: Path, tmp_path: Path
) -> None:
    fake(lambda name, job: error if name == "train" and job["place"] == 0 else None)
    with pytest.raises(graftlm.UserError, match=f"^{said}; go on with: graftlm compare --resume .*/c --ray auto$"):
        graftlm.compare(**_quick(world, tmp_path / "c"), ray="auto")
    group = read_json(tmp_path / "c/plan.json", "plan")["groups"][1]
    assert {_states(tmp_path / "c")[run] for run in group["runs"]} == {"done"}
    graftlm.compare(out=str(tmp_path / "c"), resume=True)
    assert set(_states(tmp_path / "c").values()) == {"done"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"sees": False},
            r"machine0 \(10.0.0.0\), a machine of the Ray cluster, does not see .*/c; name an --out",
        ),
        ({"version": "0.0.1"}, r"machine0 \(10.0.0.0\) has graftlm 0.0.1, here it is .*; install the same"),
    ],
)
def test_a_machine_that_cannot_take_part_is_named(
    change: dict[str, Any],
    said: str,
    fake: Callable[..., FakeRay],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake()
    real = _cluster.look

    def look(job: Any) -> Any:
        return real(job) | change

    monkeypatch.setattr(_cluster, "look", look)
    with pytest.raises(graftlm.UserError, match=said):
        graftlm.compare(**_quick(world, tmp_path / "c"), ray="auto")


def test_without_ray_or_a_cluster_one_line_says_what_helps_and_nothing_is_written(
    fake: Callable[..., FakeRay], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    for address, why in (("elsewhere", "nobody is there"), ("127.0.0.1:1", r".*refused")):
        with pytest.raises(graftlm.UserError, match=rf"^no Ray cluster at {address} \({why}\); start one"):
            graftlm.compare(**_quick(world, tmp_path / "c"), ray=address)
    pruned = _quick(world, tmp_path / "c") | {"search": {"space": {"method.rank": [2]}, "pruner": "halving"}}
    with pytest.raises(graftlm.UserError, match=r'^search.pruner = "halving" watches trials in this process'):
        graftlm.compare(**pruned | {"methods": ["lora"]}, ray="auto")
    monkeypatch.setattr(_cluster, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(graftlm.UserError, match=r"^--ray needs Ray; install it with: pip install 'graftlm\[ray\]'$"):
        graftlm.compare(**_quick(world, tmp_path / "c"), ray="auto")
    assert not (tmp_path / "c").exists()


def missing(name: str) -> Any:
    raise ImportError(name)
