"""What a model has written, and how well it foresaw what it should have."""

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

    @property
    def loss(self) -> float:
        """The mean of the losses there are; 0 without any."""
        known = self.losses[~self.losses.isnan()]
        return float(known.double().mean()) if len(known) else 0.0
