"""How a job speaks: library code tells a reporter; only the command line prints."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """One bar. `advance` moves it and may say a few numbers, as loss=0.3, accuracy=0.8."""

    def advance(self, steps: int = 1, **numbers: float | str) -> None: ...


class Reporter(Protocol):
    """What recipes tell: a line, a warning, a table, and the progress of anything over two seconds."""

    def line(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def progress(self, title: str, total: int | None, unit: str = "steps") -> AbstractContextManager[Progress]: ...


class Silent:
    """Says nothing."""

    def line(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        pass

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Progress]:
        yield _Still()


class Notice(UserWarning):
    """What a library call warns of where it was given no reporter."""


class Warned(Silent):
    """Says warnings alone, as Python's own; what library calls use unless they are given a reporter."""

    def warn(self, text: str) -> None:
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "graftlm":
            frame, level = frame.f_back, level + 1
        warnings.warn(text, Notice, stacklevel=level)  # at the caller's line


class _Still:
    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        pass
