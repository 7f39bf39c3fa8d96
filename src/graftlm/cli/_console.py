"""How the command line speaks: bars and tables on a terminal, plain lines elsewhere, results alone when quiet."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from graftlm.core.reporter import Progress as Bar
from graftlm.core.reporter import Reporter, Silent

EVERY = 5.0  # seconds between plain lines of progress
SHORT = 2.0  # seconds below which a finished bar leaves no plain line


class ConsoleReporter:
    """Notes and progress go to standard error, so that standard output holds results alone."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self.out = Console(highlight=False, markup=False, emoji=False)
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._warned: set[str] = set()

    def line(self, text: str) -> None:
        if not self.quiet:
            self.err.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Says a warning; one that holds for many runs is said once."""
        if text in self._warned:
            return
        self._warned.add(text)
        self.err.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: bool = False) -> None:
        """A table of results, or as a `note` on standard error."""
        out = self.err if note else self.out
        right = [place > 0 and all(map(_is_number, cells)) for place, cells in enumerate(zip(*rows, strict=True))]
        right = right or [False] * len(columns)
        if out.is_terminal:
            table = Table(box=SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
            for column, numbers in zip(columns, right, strict=True):
                table.add_column(column, justify="right" if numbers else "left", overflow="fold")
            for row in rows:
                table.add_row(*row)
            out.print(title, style="bold", soft_wrap=True)
            out.print(table)
            return
        widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
        lines = ["  ".join(map(_justified, row, widths, right)).rstrip() for row in (columns, *rows)]
        out.print("\n".join([title, *(line for line in lines if line), ""]), soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Bar]:
        if self.quiet:
            yield _Still()
        elif self.err.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}", markup=False),
            )
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.err) as bars:
                yield _RichBar(bars, title, total, unit)
        else:
            lines = _Lines(self, title, total, unit)
            yield lines
            lines.close()


def reporter(*, quiet: bool) -> Reporter:
    """What speaks on the terminal; of several processes of one run only the main one does."""
    return Silent() if int(os.environ.get("RANK", "0")) else ConsoleReporter(quiet=quiet)


def _is_number(cell: str) -> bool:
    return cell.lstrip("-+")[:1].isdigit()


def _justified(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


class _Numbers:
    """The numbers that a bar shows: what it was told, and examples a second."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.examples = 0.0
        self.said: dict[str, float | str] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def take(self, steps: int, unit: str, numbers: dict[str, float | str]) -> str:
        self.examples += float(numbers.pop("examples", steps if unit == "examples" else 0))
        self.said |= numbers
        shown = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.said.items()
        ]
        rate = [f"{self.examples / max(self.seconds, 1e-9):.0f} examples/s"] if self.examples else []
        return ", ".join([*shown, *rate])


class _RichBar:
    def __init__(self, bars: Progress, title: str, total: int | None, unit: str):
        self._bars, self._unit, self._numbers = bars, unit, _Numbers()
        self._task = bars.add_task(title, total=total, said="")

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        said = self._numbers.take(steps, self._unit, numbers)
        self._bars.update(self._task, advance=steps, said=said)


class _Lines:
    """A line every few seconds, and one at the end of what was not short."""

    def __init__(self, reporter: ConsoleReporter, title: str, total: int | None, unit: str):
        self._reporter, self._title, self._total, self._unit = reporter, title, total, unit
        self._numbers, self._said = _Numbers(), ""
        self._done, self._last = 0, time.perf_counter()

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        self._said = self._numbers.take(steps, self._unit, numbers)
        self._done += steps
        if time.perf_counter() - self._last >= EVERY and self._done != self._total:
            self._last = time.perf_counter()
            left = (
                f", {(self._total - self._done) * self._numbers.seconds / self._done:.0f} s left" if self._total else ""
            )
            self._print(left)

    def close(self) -> None:
        if self._numbers.seconds >= SHORT:
            self._print(f", {self._numbers.seconds:.0f} s")

    def _print(self, time_said: str) -> None:
        of = f"/{self._total}" if self._total else ""
        said = f", {self._said}" if self._said else ""
        self._reporter.line(f"{self._title}: {self._done}{of} {self._unit}{said}{time_said}")


class _Still:
    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        pass


def hush() -> None:
    """Keeps the notices and bars of Transformers and its hub client off the screen."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read once, where tqdm is first imported
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.set_verbosity_error()
