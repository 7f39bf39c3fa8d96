"""What happens where memory runs out: the same batch goes through the model in more pieces."""

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


class Pieces:
    """In how many passes a batch goes through the model. `warn` is told when they become more.

    The gradient of a step is the sum over its examples whatever the pieces, so that only rounding changes.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.count = 1
        self._warn = warn

    def halve(self, drawn: Mapping[str, Sequence[Sequence[int]]], step: int, said: str) -> None:
        """Cuts batches into twice as many pieces; raises UserError where each holds one example already.

        `said` is how the allocator put it.
        """
        rows = max(len(part) for parts in drawn.values() for part in parts)
        if self.count >= rows:
            raise UserError(
                f"out of memory at step {step} with one example a pass ({said}); a smaller training.max_length, "
                "training.gradient_checkpointing=true or a smaller model needs less"
            )
        self.count = min(2 * self.count, rows)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn(
            f"out of memory at step {step}: from here on a batch of {rows} goes through the model in {self.count} "
            "pieces; each step still takes the same examples"
        )

    def cut(self, rows: Mapping[str, Sequence[int]]) -> list[dict[str, Sequence[int]]]:
        """One batch of each run, in pieces of nearly one size; a run with few rows is in the first ones alone."""
        sizes = {run: -(-len(own) // self.count) for run, own in rows.items()}
        pieces: list[dict[str, Any]] = [
            {run: own[place * sizes[run] : (place + 1) * sizes[run]] for run, own in rows.items()}
            for place in range(self.count)
        ]
        filled = [{run: own for run, own in piece.items() if own} for piece in pieces]
        return [piece for piece in filled if piece]
