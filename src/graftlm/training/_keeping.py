"""When a training is saved, and when it is left."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graftlm.training._state import Snapshot, State, snapshot

SHARE = 0.1  # of the time that saving may take where no number of steps is asked for


class Halted(Exception):
    """A training was asked to stop, and is saved after `step` steps."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


class Leave(Exception):
    """What an evaluation raises to be left: its run is asked to stop."""


@dataclass(frozen=True)
class Keeping:
    """`save` stores a snapshot: every `steps`, if any, and `seconds` after the last. `stop` is asked after each step.

    `start`: a snapshot to go on from.
    """

    save: Callable[[Snapshot], None]
    steps: int | None = None
    seconds: float = 60.0
    start: Snapshot | None = None
    stop: Callable[[], bool] = lambda: False


class Keeper:
    """Saves when it is time to."""

    def __init__(self, keeping: Keeping):
        self.keeping = keeping
        self.spent = 0.0
        self._saved = keeping.start.step if keeping.start is not None else 0
        self._last, self._cost = time.perf_counter(), 0.0

    def after(self, states: Mapping[str, State], step: int, most: int | None, stop: Callable[[], bool]) -> None:
        """Saves if a snapshot is due, or raises `Halted` if the training is to `stop`."""
        if not any(state.active for state in states.values()):
            return
        if stop():
            self.leave(states, step, most)
        waited = time.perf_counter() - self._last
        due = self.keeping.steps is not None and step % self.keeping.steps == 0
        if due or waited >= max(self.keeping.seconds, self._cost / SHARE):
            self._save(states, step, most)

    def leave(self, states: Mapping[str, State], step: int, most: int | None) -> None:
        """Saves and raises `Halted`."""
        self._save(states, step, most)
        raise Halted(step)

    def _save(self, states: Mapping[str, State], step: int, most: int | None) -> None:
        if step == self._saved:
            return
        before = time.perf_counter()
        found = snapshot(states, step)
        self.keeping.save(Snapshot(step, found.tensors, {**found.values, "most": most}))
        self._saved, self._last = step, time.perf_counter()
        self._cost = self._last - before
        self.spent += self._cost
