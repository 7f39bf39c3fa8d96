"""How a job speaks: library code tells a reporter; only the command line prints."""

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
    """Says nothing; what library calls use unless they are given a reporter."""

    def line(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        pass

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Progress]:
        yield _Still()


class _Still:
    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        pass
