"""The plan of a comparison as it is carried out: groups of runs, one after another, or on the machines of a cluster."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from graftlm.checkpoint import Base, load_base
from graftlm.core.errors import Unwritable, UserError
from graftlm.core.files import read_json, write_json
from graftlm.core.reporter import Reporter
from graftlm.core.results import ENDED, RECORD
from graftlm.kernels import current
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._group import Comparing, Training
from graftlm.recipes._memory import free_memory
from graftlm.recipes._origin import threads
from graftlm.recipes._run import Run
from graftlm.recipes._schedule import Group, keep, kind, like, schedule, tell

Groups = Mapping[int, tuple[Group, Sequence[Run]]]
"""A group's place in the plan -> it, and what is left of its runs."""


class Workers(Protocol):
    """What groups are trained by: `places` of them at once, with so many bytes `free` at each.

    `prepare` gives a group with its numbers; `train` leaves its runs ended, or raises `Stopped`.
    """

    places: int

    def free(self, run: Run) -> int: ...

    def prepare(self, place: int, group: Group, runs: Sequence[Run]) -> Group: ...

    def train(self, groups: Groups) -> None: ...


class Here:
    """This process: one group after another."""

    places = 1

    def __init__(self, own: Comparing):
        self.own = own
        self._ready: tuple[int, Training] | None = None  # the group that was prepared last

    def free(self, run: Run) -> int:
        return free_memory(accelerator_of(run.config, False).device)

    def prepare(self, place: int, group: Group, runs: Sequence[Run]) -> Group:
        self._ready = None  # gives its memory free before another base is loaded
        training = training_of(place, group, runs, self.own)
        self._ready = place, training
        return training.prepare()

    def train(self, groups: Groups) -> None:
        for count, (place, (group, runs)) in enumerate(groups.items(), 1):
            try:
                if self._ready is None or self._ready[0] != place:
                    self.prepare(place, group, runs)
                training = self._taken()
                if len(groups) > 1:
                    self.own.reporter.line(f"group {count} of {len(groups)}: {len(runs)} runs")
                training.run()
            except UserError as error:
                if len(groups) == 1 or len(runs) > 1 or isinstance(error, Unwritable):
                    raise
                give_up(runs[0], error, self.own.reporter)

    def _taken(self) -> Training:
        """The training that is ready; nothing keeps its base here once it is over."""
        assert self._ready is not None
        (_, training), self._ready = self._ready, None
        return training


class Planned:
    """`groups` are those of a comparison that was left, to which `train` adds what is not among them."""

    def __init__(self, own: Comparing, together: int | None, groups: Sequence[Group], workers: Workers):
        self.own, self.together, self.groups, self.workers = own, together, list(groups), workers
        self.names: list[str] = []
        self._timed: dict[Any, tuple[Group, Sequence[Run]]] = {}

    def train(self, runs: Sequence[Run], base: Base) -> None:
        """Plans runs, says the plan, and trains what is left of them; `base` has nothing attached and stays so."""
        self.names += [run.name for run in runs]
        known = {name for group in self.groups for name in group.runs}
        fresh = [run for run in runs if run.name not in known]
        self.groups += schedule(fresh, base, self.workers.free(runs[0]), self.together, self.workers.places)
        keep(self.own.out, self.names, self.groups)
        left = {
            place: [run for run in runs if run.name in group.runs and state(run) not in ENDED]
            for place, group in enumerate(self.groups)
        }
        left = {place: own for place, own in left.items() if own}
        self._time(left, base)
        keep(self.own.out, self.names, self.groups)
        if left:
            tell([self.groups[place] for place in left], self.own.reporter)
            self.workers.train({place: (self.groups[place], own) for place, own in left.items()})

    def _time(self, left: Mapping[int, Sequence[Run]], base: Base) -> None:
        """Times a few steps of the first group of each kind, and says of the others what that makes of them.

        The group that is trained first is timed last, so that it is ready then.
        """
        kinds: dict[Any, list[int]] = {}
        for place, runs in left.items():
            if self.groups[place].minutes is None:
                kinds.setdefault(kind(runs[0], base.sites()), []).append(place)
        for own, places in reversed(kinds.items()):
            first = places[0]
            if own not in self._timed:
                with suppress(UserError) if len(left[first]) == 1 < len(left) else nullcontext():
                    self.groups[first] = self.workers.prepare(first, self.groups[first], left[first])
                    self._timed[own] = self.groups[first], left[first]
                places = places[1:]
            for place in places if own in self._timed else ():
                timed, others = self._timed[own]
                runs = left[place]
                self.groups[place] = like(self.groups[place], timed, runs, others, base, self.own.tested)


def training_of(place: int, group: Group, runs: Sequence[Run], own: Comparing) -> Training:
    """What trains runs of a group, beside a base of its own, with the kernels and threads that they were begun with."""
    started = next(filter(None, (_record(run) for run in runs)), {})
    current().take(started.get("kernels", {}).get("choices", {}))
    fresh = load_base(runs[0].config.model, head=runs[0].base_head)
    with threads(started.get("machine", {}).get("threads")):
        return Training(place, group, runs, fresh, own)


def give_up(run: Run, error: UserError, reporter: Reporter) -> None:
    """Keeps why a run that trains alone could not be trained, and lets the others train."""
    path = Path(run.config.out) / RECORD
    record = read_json(path, "run's record") if path.is_file() else {"config": run.resolved, "seed": run.config.seed}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "state": "failed", "stopped": str(error)})
    reporter.warn(f'run "{run.name}" failed: {error}')


def state(run: Run) -> str:
    return _record(run).get("state", "")


def _record(run: Run) -> Mapping[str, Any]:
    path = Path(run.config.out) / RECORD
    return read_json(path, "run's record") if path.is_file() else {}
