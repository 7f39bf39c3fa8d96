"""What happens where memory runs out: fewer runs go through the model at once, then a batch goes in more pieces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graftlm.core.errors import UserError

SAID = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
SAID += ("could not create a primitive", "could not create a memory")  # oneDNN, whose own words are lost on the way


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of any of torch's allocators."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)


def first_line(error: BaseException) -> str:
    """An error's first line, cut to what fits into another."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


class Passes:
    """Through how many passes the rows of a step go. `warn` is told when they become more.

    `most`: as many runs go through the model at once, None where all do. The gradient of a step is the sum over its
    examples whatever the passes, so that only rounding changes.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.most: int | None = None
        self.warn = warn

    def groups(self, runs: Sequence[str]) -> list[list[str]]:
        """Runs that share a pass."""
        size = self.most or max(1, len(runs))
        return [list(runs[place : place + size]) for place in range(0, len(runs), size)]

    def fewer(self, runs: int, step: int) -> None:
        """Halves how many runs share a pass, where `runs` did not fit."""
        self.most = -(-runs // 2)
        _let_go()
        self.warn(f"out of memory at step {step}: from here on at most {self.most} runs go through the model at once")

    def halved(self, pieces: int, parts: Sequence[Sequence[int]], step: int, said: str) -> int:
        """Twice as many pieces of a run's batches; raises UserError where each holds one example already.

        `said` is how the allocator put it.
        """
        rows = max(map(len, parts))
        if pieces >= rows:
            raise UserError(
                f"out of memory at step {step} with one example a pass ({said}); a smaller training.max_length, "
                "training.gradient_checkpointing=true or a smaller model needs less"
            )
        count = min(2 * pieces, rows)
        _let_go()
        self.warn(
            f"out of memory at step {step}: from here on a batch of {rows} goes through the model in {count} "
            "pieces; each step still takes the same examples"
        )
        return count


def too_large(parts: Sequence[Sequence[int]], step: int, said: str, setting: str) -> UserError:
    """The error for batches that do not fit whole and may not be cut; `setting` is what says how large they are."""
    return UserError(
        f"out of memory at step {step} with a batch of {max(map(len, parts))} ({said}); its loss compares the rows of "
        f"a batch, so it does not go through the model in pieces: a smaller training.{setting} or "
        "training.max_length, or training.gradient_checkpointing=true needs less"
    )


def cut(rows: Mapping[str, Sequence[int]], pieces: Mapping[str, int]) -> list[dict[str, Sequence[int]]]:
    """One batch of each run, in its number of pieces of nearly one size; a run with few is in the first ones alone."""
    found: list[dict[str, Any]] = [{} for _ in range(max(pieces.values(), default=1))]
    for run, own in rows.items():
        size = max(1, -(-len(own) // pieces[run]))
        for place, start in enumerate(range(0, len(own), size)):
            found[place][run] = own[start : start + size]
    return [piece for piece in found if piece]


def _let_go() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
