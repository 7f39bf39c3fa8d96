"""A number between two words (LM-BFF; Gao et al., 2021, arXiv:2012.15723, section 3.2).

The score is low + (high − low) · p(high's word), p over the two words alone; the loss is the divergence of p from the
mixture that the right score is, (y − low)/(high − low).
"""

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from graftlm.core.config import Config
from graftlm.prompts.verbalizers._verbalizer import Given, Verbalizer
from graftlm.prompts.verbalizers._words import Split, table_of, word_logits, words_of
from graftlm.sites import Tensors

SEES = False


class Options(Config):
    """`words`: for the lowest and for the highest score, which are `low` and `high`; no score lies outside of them."""

    words: tuple[str, str]
    low: float
    high: float
    split: Split = "refuse"

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be less than high = {self.high:g}")
        return self


def interpolated(logits: Tensor, low: float, high: float) -> Tensor:
    """logits (… 2) of the words for the lowest and highest score -> (… 2): the score, and how far apart they are."""
    apart = logits[..., 1] - logits[..., 0]
    return torch.stack([low + (high - low) * apart.sigmoid(), apart], -1)


def mixture_loss(scores: Tensor, goals: Tensor, low: float, high: float) -> Tensor:
    """scores (b 2) of `interpolated`, goals (b) -> (b): KL(mixture ‖ p)."""
    share = ((goals - low) / (high - low)).clamp(0, 1)
    entropy = -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
    cross = functional.binary_cross_entropy_with_logits(scores[:, 1], share.to(scores), reduction="none")
    return cross - entropy.to(scores)


def make(options: Options, given: Given) -> Verbalizer:
    """Gives (n b 2): a score, and what its loss is of."""
    ends = ("low", "high")
    words = words_of(
        {end: [word] for end, word in zip(ends, options.words, strict=True)}, ends, given.tokenizer, options.split
    )
    table = table_of(words, 2, options.split)

    def score(states: Tensor, logits: Tensor, p: Tensors) -> Tensor:
        each = word_logits(logits, table.places.to(logits.device), options.split)
        return interpolated(each, options.low, options.high)

    def loss(scores: Tensor, goals: Tensor) -> Tensor:
        return mixture_loss(scores, goals, options.low, options.high)

    return Verbalizer(table.rows, score, loss=loss)
