"""What a machine of a cluster does for a comparison; each function is a task, with plain values in and out."""

import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graftlm import __version__
from graftlm.core.errors import Stopped, UserError
from graftlm.core.lock import Held, Lock
from graftlm.core.reporter import Silent
from graftlm.core.settings import FitConfig
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._group import STATES, Comparing
from graftlm.recipes._memory import free_memory
from graftlm.recipes._planned import training_of
from graftlm.recipes._run import read_all
from graftlm.recipes._schedule import Group
from graftlm.recipes._tested import test_of

STOP, SHARED = ".stop", ".shared"  # in a comparison's folder: all are to stop, and a word to know the folder by
LOOK = 0.2  # seconds between looks for the first
PAUSE = 0.5
HELD = 60.0  # seconds that a worker which was given up may take to end


class Told(Silent):
    """Keeps what is said, for the machine that the comparison was started on."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


class Asked:
    """Whether a comparison is to stop: a file in its folder says so."""

    def __init__(self, out: Path):
        self._path, self._found, self._next = out / STOP, False, 0.0

    @property
    def signal(self) -> int | None:
        return signal.SIGINT if self._found else None

    def asked(self) -> bool:
        now = time.monotonic()
        if not self._found and now >= self._next:
            self._found, self._next = self._path.exists(), now + LOOK
        return self._found


def look(job: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a machine sees the comparison's folder, its graftlm, and its free bytes."""
    path = Path(job["out"]) / SHARED
    sees = path.is_file() and path.read_text(encoding="utf-8") == job["word"]
    device = accelerator_of(FitConfig.parse(job["config"]), False).device
    return {"node": socket.gethostname(), "sees": sees, "version": __version__, "free": free_memory(device)}


def prepare(job: Mapping[str, Any]) -> dict[str, Any]:
    """A group with its numbers."""
    return _work(job, train=False)


def train(job: Mapping[str, Any]) -> dict[str, Any]:
    """Trains what is left of a group."""
    return _work(job, train=True)


def _work(job: Mapping[str, Any], *, train: bool) -> dict[str, Any]:
    """`group`, `warned`, and `error` or `stopped` where it ended so."""
    told, out = Told(), Path(job["out"])
    found: dict[str, Any] = {"node": socket.gethostname(), "warned": told.warned}
    if Path(job["folder"]).is_dir():
        os.chdir(job["folder"])
    states = out / STATES / str(job["place"])
    states.mkdir(parents=True, exist_ok=True)
    asked = Asked(out)
    try:
        with _held(states) as lock:
            configs = {name: FitConfig.parse(config) for name, config in job["configs"].items()}
            runs = read_all(configs, told, job["fields"])
            own = Comparing(out, lock, test_of(runs[0], job["fields"]), asked, told)
            training = training_of(job["place"], Group(**job["group"]), runs, own)
            found["group"] = asdict(training.prepare())
            if train:
                training.run()
    except Stopped:
        found["stopped"] = True
    except UserError as error:
        found["error"] = str(error)
    return found


def _held(folder: Path) -> Lock:
    """A group's folder for this worker alone, once one that is being ended has let it go."""
    until = time.monotonic() + HELD
    while True:
        try:
            return Lock(folder)
        except Held:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)
