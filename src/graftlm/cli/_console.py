"""How the command line speaks: bars and tables on a terminal, plain lines elsewhere, results alone when quiet."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from graftlm.core.reporter import Progress as Bar

EVERY = 5.0  # seconds between plain lines of progress


class ConsoleReporter:
    """Notes and progress go to standard error, so that standard output holds results alone."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def line(self, text: str) -> None:
        if not self.quiet:
            self.err.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.err.print(f"warning: {text}", style="yellow", markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not self.out.is_terminal:
            widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
            print(title)
            for row in (columns, *rows):
                print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            return
        table = Table(title=title, title_justify="left")
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.out.print(table)

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Bar]:
        if self.quiet:
            yield _Still()
        elif self.err.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.err) as bars:
                yield _RichBar(bars, title, total, unit)
        else:
            yield _Lines(title, total, unit)


class _Numbers:
    """The numbers that a bar shows: what it was told, and examples a second."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.examples = 0.0
        self.said: dict[str, float | str] = {}

    def take(self, steps: int, unit: str, numbers: dict[str, float | str]) -> str:
        count = numbers.pop("examples", steps if unit == "examples" else 0)
        self.examples += float(count)
        self.said |= numbers
        shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in self.said.items()]
        rate = self.examples / max(time.perf_counter() - self.started, 1e-9)
        return ", ".join([*shown, f"{rate:.0f} examples/s"])


class _RichBar:
    def __init__(self, bars: Progress, title: str, total: int | None, unit: str):
        self._bars, self._unit, self._numbers = bars, unit, _Numbers()
        self._task = bars.add_task(title, total=total, said="")

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        said = self._numbers.take(steps, self._unit, numbers)
        self._bars.update(self._task, advance=steps, said=said)


class _Lines:
    def __init__(self, title: str, total: int | None, unit: str):
        self._title, self._total, self._unit, self._numbers = title, total, unit, _Numbers()
        self._done, self._last = 0, time.perf_counter()

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        said = self._numbers.take(steps, self._unit, numbers)
        self._done += steps
        now = time.perf_counter()
        if now - self._last >= EVERY:
            self._last = now
            print(f"{self._title}: {self._done}/{self._total} {self._unit}, {said}", file=sys.stderr, flush=True)


class _Still:
    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        pass


def hush() -> None:
    """Keeps Transformers' own notices and bars off the screen."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
