"""Runs that train in one pass over one base, each with an ordinary folder of its own, saved and resumed together."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graftlm.checkpoint import Base, drop_later, drop_states, load_state, save_state
from graftlm.core.errors import Stopped, Unwritable, UserError
from graftlm.core.files import remove
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._folder import RunFolder
from graftlm.recipes._history import History
from graftlm.recipes._memory import needed_by, warn_of_memory
from graftlm.recipes._origin import origin, threads
from graftlm.recipes._run import Job, Run, casts, jobs, losses_of
from graftlm.recipes._saved import save
from graftlm.recipes._schedule import Group, batches
from graftlm.recipes._signals import Stopping
from graftlm.recipes._tested import Test, tested
from graftlm.training import Halted, Keeping, Outcome, Plan, Snapshot, first_line, only, steps_of, timed, train

STATES = "groups"  # where the checkpoints of groups are, a folder each
Watch = Callable[[str, int, int, Mapping[str, float]], "str | None"]
"""What is told of each evaluation: the run, its step, how many evaluations it has had, and the metrics."""


@dataclass
class Comparing:
    """What the groups of one comparison share."""

    out: Path
    lock: Lock
    test: Test | None
    stopper: Stopping
    reporter: Reporter
    watch: Watch = lambda run, step, place, metrics: None
    fields: Sequence[str] = ()

    @property
    def tested(self) -> int:
        """How many examples each run is tested on."""
        return len(self.test.examples) if self.test is not None else 0


def way_on(out: Path) -> str:
    """What is said of a comparison that a signal has ended."""
    return f"stopped, and saved; go on with: graftlm compare --resume {shlex.quote(str(out))}"


class Training:
    """One group: `prepare` attaches its runs and times a few steps, `run` trains what is left of them.

    It trains with as many of torch's threads as it is made with.
    """

    def __init__(self, place: int, group: Group, runs: Sequence[Run], base: Base, own: Comparing):
        self.group, self.runs, self.base, self.own = group, runs, base, own
        self.states = own.out / STATES / str(place)
        self._threads = torch.get_num_threads()
        first = runs[0].config
        self.accelerator = accelerator_of(first.model_copy(update={"out": str(own.out)}), casts(runs, base))
        self.jobs = jobs(runs, base, self.accelerator.device, own.stopper, own.reporter)
        self.losses = losses_of(self.jobs)
        self.needs = {name: needed_by(job.model, name, job.plan) for name, job in self.jobs.items()}
        self._folders: dict[str, RunFolder] = {}
        self._histories: dict[str, History] = {}
        self._open: dict[str, ExitStack] = {}

    def prepare(self) -> Group:
        """The group with how many of its runs to train at once, and how long that will take."""
        plans = self._plans()
        most = min(self.group.together or self.group.most, len(plans))
        if self.group.minutes is None:
            found = timed(self.losses, plans, self.accelerator, most, exactly=self.group.together is not None)
            count = sum(batches(run, self.own.tested, steps_of(plans[run.name])) for run in self.runs)
            minutes = None if found.a_run is None else count * found.a_run / 60
            self.group = replace(self.group, together=found.together, minutes=minutes)
        heaviest = sorted(self.needs.values(), reverse=True)[: self.group.together]
        self.group = replace(self.group, memory=sum(heaviest))
        warn_of_memory(self.group.memory, self.accelerator.device, self.own.reporter)
        return self.group

    def run(self) -> None:
        """Trains the runs; each is whole in its folder as soon as it ends. `Stopped` where that was asked for."""
        start = self._left()
        with ExitStack() as stack:
            stack.enter_context(threads(self._threads))
            stack.callback(self._close)
            for name, job in self.jobs.items():
                self._enter(name, job, start)
            seconds = self.runs[0].config.training.save_seconds
            keeping = Keeping(
                self._save,
                min(filter(None, (run.config.training.save_steps for run in self.runs)), default=None),
                seconds,
                start,
                self.own.stopper.asked,
            )
            self.accelerator.init_trackers("graftlm", config=None)
            try:
                train(
                    self.losses,
                    self._plans(),
                    self.accelerator,
                    self.own.reporter,
                    keeping,
                    self.group.together or len(self.runs),
                )
            except Halted:
                signal = self.own.stopper.signal
                assert signal is not None
                raise Stopped(way_on(self.own.out), signal) from None
            self.accelerator.end_training()
        drop_states(self.states)
        remove(self.states)

    def _plans(self) -> dict[str, Plan]:
        """In the group's order."""
        return {name: self.jobs[name].plan for name in self.group.runs if name in self.jobs}

    def _left(self) -> Snapshot | None:
        """Where the runs were left, those that have ended since taken out."""
        found = load_state(self.states) if self.states.is_dir() else None
        if found is None:
            return None
        tensors, values = found
        drop_later(self.states, values["step"])
        snapshot = only(Snapshot(values["step"], tensors, values), self.jobs.keys())
        return snapshot if snapshot.values["runs"] else None

    def _save(self, found: Snapshot) -> None:
        self.own.lock.check()
        self.states.mkdir(parents=True, exist_ok=True)
        under_way = [values["run"] for values in found.values["runs"]]
        values = {
            **found.values,
            "histories": {name: self._histories[name].sync() for name in under_way},
            "run_seconds": {name: self._folders[name].seconds for name in under_way},
        }
        save_state(self.states, found.step, found.tensors, values)

    def _enter(self, name: str, job: Job, start: Snapshot | None) -> None:
        """Opens a run's folder and history, and has it closed when the run ends."""
        run = job.run
        stack = self._open[name] = ExitStack()
        folder = RunFolder(Path(run.config.out), self.own.reporter, run.config.training.keep_checkpoints)
        self._folders[name] = stack.enter_context(folder)
        record = {
            "config": run.resolved,
            "seed": run.config.seed,
            "estimated_memory_bytes": self.needs[name],
            **origin(run.data, self.base.fingerprint, self.accelerator.device, job.model.kernels),
        }
        values = start.values if start is not None else {}
        if name in values.get("histories", {}):
            folder.reopen()
            folder.go_on_beside(record, values["histories"][name], values["run_seconds"][name])
        else:
            folder.claim(overwrite=True)
            folder.begin(record)
        self._histories[name] = stack.enter_context(folder.history())
        plan = job.plan
        plan.record, plan.isolated = self._histories[name].write, True
        plan.ended = lambda outcome: self._ended(name, job, outcome, record)
        plan.watch = lambda step, metrics: self.own.watch(name, step, math.ceil(plan.evaluations(step)), metrics)

    def _ended(self, name: str, job: Job, outcome: Outcome, record: Mapping[str, Any]) -> None:
        """Stores a run that has ended; one that failed is reported, and the others go on."""
        folder = self._folders[name]
        try:
            save(job, folder, outcome, record, self.own.reporter, lambda job: self._found(job, folder))
        except Exception as error:
            if isinstance(error, Unwritable):
                raise
            folder.check()
            if not (outcome.failed and isinstance(error, UserError)):  # the run was trained; what came after failed
                why = f"at the end: {type(error).__name__}: {first_line(error)}"
                folder.end({**record, "steps": outcome.steps, "stopped": why}, "failed")
                error = UserError(f'run "{name}" failed {why}')
            self.own.reporter.warn(str(error))
        self._open.pop(name).close()

    def _found(self, job: Job, folder: RunFolder) -> dict[str, Any]:
        """What a comparison's report needs of a run."""
        metric = job.model.task.measures(job.model.problem)[0]
        return {"metric": metric, "learning_rate": job.plan.rate, **tested(job, self.own.test, folder.path)}

    def _close(self) -> None:
        for stack in self._open.values():
            stack.close()
