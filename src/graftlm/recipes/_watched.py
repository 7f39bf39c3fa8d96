"""Evaluations inside a training: quiet, left when the run is to stop, in smaller batches where memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from graftlm.core.errors import UserError
from graftlm.core.reporter import Progress, Silent
from graftlm.training import Leave, out_of_memory

Found = TypeVar("Found")


class Watched(Silent):
    """Says nothing, since the training's bar goes on showing; raises `Leave` once `stop` says so."""

    def __init__(self, stop: Callable[[], bool]):
        self._stop = stop

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Progress]:
        yield _Watch(self._stop)


class _Watch:
    def __init__(self, stop: Callable[[], bool]):
        self._stop = stop

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        if self._stop():
            raise Leave


def shrinking(compute: Callable[[int], Found], size: int) -> tuple[Found, int]:
    """What `compute` gives for a batch size, and the size: half as large each time that memory runs out."""
    while True:
        try:
            return compute(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if size == 1:
            raise UserError("out of memory in evaluation with one example a pass; a smaller model needs less")
        size //= 2
