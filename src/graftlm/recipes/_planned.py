"""The plan of a comparison as it is carried out: groups of runs, one after another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftlm.checkpoint import Base, load_base
from graftlm.core.errors import Unwritable, UserError
from graftlm.core.files import read_json, write_json
from graftlm.core.reporter import Reporter
from graftlm.core.results import ENDED, RECORD
from graftlm.kernels import current
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._group import Comparing, Training
from graftlm.recipes._memory import free_memory
from graftlm.recipes._run import Run
from graftlm.recipes._schedule import Group, keep, schedule, tell


class Planned:
    """`groups` are those of a comparison that was left, to which `train` adds what is not among them."""

    def __init__(self, own: Comparing, together: int | None, groups: Sequence[Group]):
        self.own, self.together, self.groups = own, together, list(groups)
        self.names: list[str] = []

    def train(self, runs: Sequence[Run], base: Base) -> None:
        """Plans runs, says the plan, and trains what is left of them; `base` has nothing attached and stays so."""
        self.names += [run.name for run in runs]
        known = {name for group in self.groups for name in group.runs}
        fresh = [run for run in runs if run.name not in known]
        free = free_memory(accelerator_of(runs[0].config, False).device)
        self.groups += schedule(fresh, base, free, self.together)
        keep(self.own.out, self.names, self.groups)
        wanted = {run.name for run in runs}
        chosen = [place for place, group in enumerate(self.groups) if wanted & {*group.runs}]
        tell([self.groups[place] for place in chosen], self.own.reporter)
        for place in chosen:
            self._train(place, [run for run in runs if run.name in self.groups[place].runs])

    def _train(self, place: int, runs: Sequence[Run]) -> None:
        """Trains what is left of a group, and writes what its first steps have shown into the plan."""
        left = [run for run in runs if _state(run) not in ENDED]
        if not left:
            return
        started = next(filter(None, (_record(run) for run in left)), {})
        current().take(started.get("kernels", {}).get("choices", {}))
        try:
            fresh = load_base(left[0].config.model, head=left[0].base_head)
            training = Training(place, self.groups[place], left, fresh, self.own)
            self.groups[place] = group = training.prepare()
            keep(self.own.out, self.names, self.groups)
            self.own.reporter.line(
                f"group {place + 1} of {len(self.groups)}: {len(left)} runs, {group.together} at once, about "
                f"{group.memory / 1e6:,.0f} MB beside the base, {group.minutes or 0:.1f} minutes in all"
            )
            training.run()
        except UserError as error:
            if len(self.groups) == 1 or len(left) > 1 or isinstance(error, Unwritable):
                raise
            _give_up(left[0], error, self.own.reporter)


def _give_up(run: Run, error: UserError, reporter: Reporter) -> None:
    """Keeps why a run that trains alone could not be trained, and lets the others train."""
    path = Path(run.config.out) / RECORD
    record = read_json(path, "run's record") if path.is_file() else {"config": run.resolved, "seed": run.config.seed}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "state": "failed", "stopped": str(error)})
    reporter.warn(f'run "{run.name}" failed: {error}')


def _state(run: Run) -> str:
    return _record(run).get("state", "")


def _record(run: Run) -> Mapping[str, Any]:
    path = Path(run.config.out) / RECORD
    return read_json(path, "run's record") if path.is_file() else {}
