"""A run's folder while the run writes to it: held by one process, with its config in `run.json` from the first step.

`state` in `run.json` is "running", "failed" or "done"; the last is written when all else is in place.
"""

import errno
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graftlm.checkpoint import drop_later, drop_states, load_state, save_state
from graftlm.core.errors import Stopped, Unwritable, UserError
from graftlm.core.files import read_json, remove, sweep, write_json, writing
from graftlm.core.lock import NAME as LOCK
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter
from graftlm.recipes._history import History
from graftlm.recipes._origin import compare
from graftlm.recipes._signals import Stopper
from graftlm.training import Halted, Snapshot

LEFT = ("adapter", "metrics.json", "predictions.jsonl", "history.jsonl")  # by an earlier run
RECORD, HISTORY = "run.json", "history.jsonl"


class RunFolder:
    """Use it in a `with` block, which gives the folder free; `begin` or `go_on` come before the first step."""

    def __init__(self, path: Path, reporter: Reporter, keep: int = 0):
        self.path, self.reporter, self.keep = path, reporter, keep
        self.record: Mapping[str, Any] = {}
        self.start: Snapshot | None = None
        self.begun = False
        self._lock: Lock | None = None
        self._made = False
        self._before, self._at, self._started = 0.0, 0, time.perf_counter()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
        if self._made and not self.begun and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def seconds(self) -> float:
        """Since the run's start, without the time in which nobody worked on it."""
        return self._before + time.perf_counter() - self._started

    @property
    def command(self) -> str:
        """What goes on with the run."""
        return f"graftlm fit --resume {shlex.quote(str(self.path))}"

    def claim(self, overwrite: bool) -> None:
        """Refuses a folder that a new run cannot have; one that is there already is locked at once."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"out = {self.path} is a file; name a folder")
        if self.path.is_symlink() and not self.path.exists():
            raise UserError(f"out = {self.path} is a link to nothing; name a folder")
        if self.path.is_dir():
            self._hold()
            sweep(self.path)
            if not overwrite and any(entry.name != LOCK for entry in self.path.iterdir()):
                raise UserError(f"{self.path} is not empty; {self._way_out()}")

    def _way_out(self) -> str:
        unfinished = (self.path / RECORD).is_file() and not (self.path / "adapter").exists()
        others = "name another folder, or pass --overwrite"
        return f"go on with {self.command}, {others}" if unfinished else others

    def reopen(self) -> None:
        """Locks the folder of a run that was started, and reads what it was started with."""
        if not self.path.is_dir():
            raise UserError(f"no run at {self.path}; --resume takes the folder of a run that was started")
        if not (self.path / RECORD).is_file():
            raise UserError(f"{self.path} holds no run that was started: {self.path / RECORD} is missing")
        self._hold()
        record = read_json(self.path / RECORD, "run's record")
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise UserError(f"{self.path / RECORD} is not a run's record: it has no config")
        if "state" not in record:
            raise UserError(
                f"{self.path} was trained by a graftlm that could not resume; there is nothing to go on from"
            )
        if record["state"] == "failed":
            raise UserError(f"{self.path} stopped by itself: {record['stopped']}; train it anew with --overwrite")
        self.record = record
        sweep(self.path)

    def begin(self, record: Mapping[str, Any]) -> None:
        """Makes the folder, and clears away what an earlier run has left."""
        self._made = not self.path.exists()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._hold()
        drop_states(self.path)
        self._write({"state": "running", **record})
        for name in LEFT:
            remove(self.path / name)
        sweep(self.path)

    def go_on(self, record: Mapping[str, Any]) -> None:
        """Compares with what the run was started on, and takes its last checkpoint."""
        compare(self.path, self.record, record, self.reporter)
        self.begun = True
        found = load_state(self.path)
        if found is None:
            drop_later(self.path, 0)
            self.reporter.line(f"{self.path} has no checkpoint yet: starting from the beginning")
            return
        tensors, values = found
        drop_later(self.path, values["step"])
        self.start = Snapshot(values["step"], tensors, values)
        self._at, self._before = values["history"], values["seconds"]
        self.reporter.line(f"going on from step {values['step']}")

    def go_on_beside(self, record: Mapping[str, Any], history: int, seconds: float) -> None:
        """Goes on from a snapshot that others keep, which says how long the history was, and after how many seconds."""
        compare(self.path, self.record, record, self.reporter)
        self.begun, self._at, self._before = True, history, seconds

    def history(self) -> History:
        """The run's history, cut back to where it goes on."""
        return History(self.path / HISTORY, self._at)

    def save(self, found: Snapshot, history: History) -> None:
        """A checkpoint; raises UserError where it cannot be written, with the one before as it was."""
        assert self._lock is not None
        self._lock.check()
        values = {**found.values, "history": history.sync(), "seconds": self.seconds}
        save_state(self.path, found.step, found.tensors, values, self.keep)

    def check(self) -> None:
        """Raises UserError where the folder is no longer the one that was locked."""
        assert self._lock is not None
        self._lock.check()

    def end(self, record: Mapping[str, Any], state: str) -> None:
        """Writes the final record. A run that is done keeps as many checkpoints as it was asked to."""
        self._write({"state": state, **record})
        if state == "done":
            drop_states(self.path, self.keep)

    def _hold(self) -> None:
        self._lock = Lock(self.path)
        if not self._lock.sure:
            self.reporter.warn(f"the file system of {self.path} has no locks: see that no other run writes to it")

    def _write(self, record: Mapping[str, Any]) -> None:
        write_json(self.path / RECORD, record)
        self.begun = True


@contextmanager
def halting(folder: RunFolder, stopper: Stopper) -> Iterator[None]:
    """Turns the end of a training that was asked to stop into `Stopped`, which says what goes on with it."""
    try:
        yield
    except Halted as halted:
        number = stopper.signal or signal.SIGTERM  # which another process of the run was sent
        raise Stopped(
            f"stopped after step {halted.step}, which is saved; go on with: {folder.command}", number
        ) from None


@contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """Adds to an error of the disk what goes on with the run once there is room."""
    try:
        yield
    except Unwritable as error:
        if not folder.begun or error.number == errno.ENOENT:
            raise
        raise UserError(f"{error}; then go on with: {folder.command}") from None
