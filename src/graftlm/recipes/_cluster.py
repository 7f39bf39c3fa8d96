"""Groups of a comparison on the machines of a Ray cluster, in a folder that all of them share.

A group is one task of Ray's; where its machine is lost, it goes on at another from its last checkpoint.
"""

import importlib
import os
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftlm import __version__
from graftlm.core.errors import Stopped, UserError
from graftlm.core.files import read_json, remove, write_text
from graftlm.core.results import ENDED
from graftlm.recipes._group import STATES, Comparing
from graftlm.recipes._node import SHARED, STOP, look, prepare, train
from graftlm.recipes._planned import Groups, give_up, state
from graftlm.recipes._run import Run
from graftlm.recipes._schedule import Group
from graftlm.training import first_line

VAIN = 3  # attempts at a group that get no further
PAUSE = 0.5  # seconds between looks at the tasks
STOPPING = 120.0  # seconds that machines have to save what they are at
REACHING = 10.0  # seconds that a cluster has to take a call


def ray() -> Any:
    """Ray, where it is installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray needs Ray; install it with: pip install 'graftlm[ray]'") from None


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), min(int(port), 65535)), REACHING).close()


@dataclass
class _Left:
    """What is left of a group; `reached`: how far it was when it was last begun, and `vain`: how often in vain."""

    group: Group
    runs: Sequence[Run]
    reached: tuple[int, int] = (-1, -1)
    vain: int = 0


class Cluster:
    """The Ray cluster at an address, used in a `with` block; `join` comes before the rest.

    `places`: how many groups are trained at once, one for each GPU, or for each machine where there is none.
    """

    def __init__(self, address: str):
        self.address, self.places, self._free = address, 1, 0
        self._ray = ray()
        self._resources: dict[str, Any] = {}
        self._tasks: dict[Any, int] = {}

    def __enter__(self) -> "Cluster":
        try:
            _reach(self.address)
            self._ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except Exception as error:
            raise UserError(
                f"no Ray cluster at {self.address} ({first_line(error)}); start one with ray start --head, or take "
                "--ray local for this machine alone"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()

    def join(self, own: Comparing, run: Run) -> None:
        """Looks at each machine; raises UserError where one does not see the comparison's folder."""
        self.own = own
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
        kind = "GPU" if gpus else "CPU"
        able = [node for node in nodes if node["Resources"].get(kind, 0) >= 1]
        if not able:
            raise UserError(f"the Ray cluster at {self.address} has no machine with a CPU to train on")
        fewest = min(int(node["Resources"]["CPU"]) for node in able)
        self._resources = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": fewest}
        self.places = int(gpus) or len(able)
        word, path = secrets.token_hex(8), own.out / SHARED
        write_text(path, word)
        job = {"out": str(own.out.resolve()), "word": word, "config": run.config.model_dump(mode="json")}
        try:
            self._free = min(self._look(node, job) for node in able)
        finally:
            remove(path)
        machines = f"{len(able)} machines" if len(able) > 1 else "1 machine"
        groups = f"{self.places} groups" if self.places > 1 else "1 group"
        own.reporter.line(f"Ray cluster at {self.address}: {machines}, {groups} at once")

    def free(self, run: Run) -> int:
        return self._free

    def prepare(self, place: int, group: Group, runs: Sequence[Run]) -> Group:
        found = self._found(self._begun(prepare, self._job(place, group, runs)))
        if found is None:
            raise UserError(f"a machine of the Ray cluster at {self.address} was lost; go on with: {self._command}")
        if "error" in found:
            raise UserError(found["error"])
        return Group(**found["group"])

    def train(self, groups: Groups) -> None:
        """Trains groups, and all of them whatever becomes of one."""
        remove(self.own.out / STOP)
        left = {place: _Left(group, runs) for place, (group, runs) in groups.items()}
        waiting, errors, ended, until = list(left), list[str](), 0, 0.0
        with self.own.reporter.progress("runs", sum(len(one.runs) for one in left.values()), unit="runs") as bar:
            while waiting or self._tasks:
                if self.own.stopper.asked():
                    until = until or time.monotonic() + STOPPING
                    waiting.clear()
                    (self.own.out / STOP).touch()
                    if time.monotonic() > until:
                        break
                while waiting and len(self._tasks) < self.places:
                    place = waiting.pop(0)
                    left[place].reached = self._reached(place, left[place].runs)
                    task = self._begun(train, self._job(place, left[place].group, left[place].runs))
                    self._tasks[task] = place
                for task in self._ray.wait(list(self._tasks), timeout=PAUSE)[0] if self._tasks else ():
                    place = self._tasks.pop(task)
                    if self._goes_on(place, left[place], self._found(task), errors, alone=len(groups) == 1):
                        waiting.append(place)
                now = sum(state(run) in ENDED for one in left.values() for run in one.runs)
                if now > ended:
                    bar.advance(now - ended)
                ended = now
        remove(self.own.out / STOP)
        if (signal := self.own.stopper.signal) is not None:
            raise Stopped(f"stopped, and saved; go on with: {self._command}", signal)
        if errors:
            raise UserError(f"{errors[0]}; go on with: {self._command}")

    @property
    def _command(self) -> str:
        return f"graftlm compare --resume {shlex.quote(str(self.own.out))} --ray {shlex.quote(self.address)}"

    def _look(self, node: Mapping[str, Any], job: Mapping[str, Any]) -> int:
        """A machine's free bytes."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        found = self._found(self._begun(look, job, there))
        if found is None:
            raise UserError(f"{name}, a machine of the Ray cluster at {self.address}, was lost")
        if "error" in found:
            raise UserError(f"{name}, a machine of the Ray cluster, cannot take part: {found['error']}")
        if found["version"] != __version__:
            raise UserError(f"{name} has graftlm {found['version']}, here it is {__version__}; install the same")
        if not found["sees"]:
            raise UserError(
                f"{name}, a machine of the Ray cluster, does not see {job['out']}; name an --out in a folder that all "
                "machines share under the same path"
            )
        return found["free"]

    def _job(self, place: int, group: Group, runs: Sequence[Run]) -> dict[str, Any]:
        configs = {run.name: run.config.model_dump(mode="json") for run in runs}
        return {
            "out": str(self.own.out.resolve()),
            "folder": os.getcwd(),  # noqa: PTH109
            "place": place,
            "group": asdict(group),
            "configs": configs,
            "fields": list(self.own.fields),
        }

    def _begun(self, work: Callable[[Mapping[str, Any]], dict[str, Any]], job: Mapping[str, Any], at: Any = "SPREAD"):
        task = self._ray.remote(work).options(max_retries=0, scheduling_strategy=at, **self._resources)
        return task.remote(job)

    def _found(self, task: Any) -> dict[str, Any] | None:
        """What a task has come to; None where its machine or its worker was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.RayTaskError as error:  # a bug, which another machine has too
            return {"error": first_line(error.cause if error.cause is not None else error), "warned": ()}
        except errors.RayError:
            return None

    def _goes_on(
        self, place: int, left: _Left, found: Mapping[str, Any] | None, errors: list[str], *, alone: bool
    ) -> bool:
        """Tells what has become of a group's task; gives whether it is to be begun again."""
        reporter = self.own.reporter
        if found is None:
            left.runs = [run for run in left.runs if state(run) not in ENDED]
            reached = self._reached(place, left.runs)
            left.vain = 0 if reached > left.reached else left.vain + 1
            if not left.runs or left.vain == VAIN:
                if left.runs:
                    errors.append(f"group {place + 1} was lost {VAIN} times without getting any further")
                return False
            reporter.warn(f"group {place + 1} was lost with its machine; it goes on from its last checkpoint")
            return True
        for text in found["warned"]:
            reporter.warn(f"{found['node']}: {text}")
        if "error" in found:
            if len(left.runs) == 1 and not alone:
                give_up(left.runs[0], UserError(found["error"]), reporter)
            else:
                errors.append(found["error"])
        return False

    def _reached(self, place: int, runs: Sequence[Run]) -> tuple[int, int]:
        """How many of a group's runs have ended, and the step of its checkpoint."""
        pointer = self.own.out / STATES / str(place) / "checkpoint.json"
        name = read_json(pointer, "pointer to a checkpoint")["checkpoint"] if pointer.is_file() else "checkpoint-0"
        return sum(state(run) in ENDED for run in runs), int(name.rpartition("-")[2])
