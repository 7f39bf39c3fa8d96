"""Commands that run in processes of their own, to be killed; see forks.py."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 120


class Commands:
    """One command at a time; `model` is one that all of them use."""

    def __init__(self, model: Path):
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forks.py")), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._heard() == "ready"

    def start(self, *arguments: object, limit: int | None = None) -> int:
        """The process's id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"arguments": list(map(str, arguments)), "limit": limit}) + "\n")
        self._server.stdin.flush()
        return self._heard()

    def end(self) -> tuple[int, str]:
        """The exit code, negative for a signal, and what was said."""
        code, said = self._heard()
        return code, said

    def __call__(self, *arguments: object, limit: int | None = None) -> tuple[int, str]:
        self.start(*arguments, limit=limit)
        return self.end()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _heard(self) -> Any:
        assert self._server.stdout is not None
        return json.loads(self._server.stdout.readline())


def wait_for(condition: Callable[[], bool], pause: float = 0.002) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(pause)
