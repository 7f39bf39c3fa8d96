"""What a model has written or guessed by its own head, and how well it foresaw what it should have."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Written:
    """An example's texts, best first, and their scores: the mean log-probability of a token, the end's included.

    `losses` (examples) are those of the targets, not a number where there is none. No `texts` where none were wanted,
    no `scores` where there is only one text each.
    """

    losses: Tensor
    texts: Sequence[Sequence[str]] = ()
    scores: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Guessed:
    """For each place of each row the likeliest words with their probabilities, and the rank of the right one.

    `losses` (rows) are not a number where nothing is right; a rank counts from 1, 0 where it is not known.
    """

    losses: Tensor
    words: Sequence[Sequence[Sequence[tuple[str, float]]]]
    ranks: Sequence[Sequence[int]]


def mean_loss(found: Written | Guessed) -> float:
    """The mean of the losses there are; 0 without any."""
    known = found.losses[~found.losses.isnan()]
    return float(known.double().mean()) if len(known) else 0.0
