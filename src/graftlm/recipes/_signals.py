"""Ctrl-C and SIGTERM end a run after its step; a second Ctrl-C, or one when nothing is left to train, at once."""

import signal
import threading
from typing import Any, Protocol

from graftlm.core.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(Protocol):
    """What says whether a training is to stop, and by which signal."""

    @property
    def signal(self) -> int | None: ...

    def asked(self) -> bool: ...


class Never:
    """Says that it is not."""

    signal = None

    def asked(self) -> bool:
        return False


class Stopper:
    """Holds the signals while its block runs, and gives the earlier handlers back.

    Outside the main thread, where Python takes no handlers, and for a signal that is ignored, it changes nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._said: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: old for number, old in handlers.items() if old not in (None, signal.SIG_IGN)}
            for number in self._before:
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._before.items():
            signal.signal(number, old)
        self._before = {}

    def asked(self) -> bool:
        """Whether the run is to stop."""
        return self.signal is not None

    def at_once(self, said: str) -> None:
        """Has a signal raise `Stopped` as it comes, with what is `said`; one that has come is raised here."""
        self._said = said
        if self.signal is not None:
            raise Stopped(said, self.signal)

    def _take(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self._said is not None:
            raise Stopped(self._said, self.signal)
