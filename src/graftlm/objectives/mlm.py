"""Masked language modelling (Devlin et al., 2019, arXiv:1810.04805; google-research/bert).

Of each row's tokens, specials counted and virtual ones not, 15 % are chosen, one at least, but never a special or a
virtual one. Of those 80 % become the mask, 10 % another word of the vocabulary, 10 % stay as they are; the loss is on
them alone. What is drawn depends on the run's seed, the step and the example, and not on what stands beside it.
BERT's data has at most 20 of 128 tokens chosen, which is the same number; there is no such limit here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SHARE, MASKED, REPLACED = 0.15, 0.8, 0.1
UNREAD = -100


@dataclass(frozen=True)
class Masked:
    """A row with masks: its ids, the places chosen, in order, and what stood there."""

    ids: list[int]
    places: list[int]
    words: list[int]

    @property
    def goals(self) -> list[int]:
        """What each place should be, −100 where nothing was chosen."""
        right = dict(zip(self.places, self.words, strict=True))
        return [right.get(place, UNREAD) for place in range(len(self.ids))]


def count(length: int) -> int:
    """How many tokens of a row are chosen: round(0.15 · length), and one at least."""
    return max(1, round(SHARE * length))


def masked(ids: Sequence[int], special: Collection[int], mask: int, vocabulary: int, key: int) -> Masked:
    """A row's masks; one of special tokens alone has none. `key` is a number of (run seed, step, example).

    Ids from `vocabulary` on are virtual tokens.
    """
    real = [(place, token) for place, token in enumerate(ids) if token < vocabulary]
    ordinary = [place for place, token in real if token not in special]
    generator = torch.Generator().manual_seed(key % 2**63)
    order = torch.randperm(len(ordinary), generator=generator).tolist()
    places = sorted(ordinary[number] for number in order[: count(len(real))])
    fates = torch.rand(len(places), generator=generator).tolist()
    others = torch.randint(vocabulary, (len(places),), generator=generator).tolist()
    shown = list(ids)
    for place, fate, other in zip(places, fates, others, strict=True):
        if fate < MASKED:
            shown[place] = mask
        elif fate < MASKED + REPLACED:
            shown[place] = other
    return Masked(shown, places, [ids[place] for place in places])


def loss(logits: Tensor, words: Tensor) -> Tensor:
    """logits (b w v) at the chosen places, words (b w) with −100 behind a row's last -> (b): each row's mean."""
    each = functional.cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=UNREAD, reduction="none")
    return each.view(words.shape).sum(1) / (words != UNREAD).sum(1).clamp(min=1)


def beside(main: Tensor, auxiliary: Tensor, share: float) -> Tensor:
    """(1 − share) · main + share · auxiliary: PET's loss, its code's α being 1 − share, its paper's α the share."""
    return (1 - share) * main + share * auxiliary
