"""Label words of several tokens, a mask each (PET; Schick and Schütze, 2021, arXiv:2009.07118, section 3.1).

A word's score is the sum of its tokens' log-probabilities, without a division by their number. By PET's rules the
masks are filled one after another, and each token counts as it was foreseen when it was filled in: "max-first" fills
the likeliest of the word's tokens next, "left-to-right" the first, "parallel" all at once. "full" is the whole
log-probability: each token with all others of its word in place, masked alone (Salazar et al., 2020). A causal model
and a decoder see those before it in one pass, "parallel" here, and the sum is exactly log p(word | text).
PET scores one example at a time; here words of all examples are filled in the same passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Rule = Literal["max-first", "left-to-right", "parallel", "full"]


@dataclass(frozen=True)
class Slots:
    """A row's ids, the places of a word's masks in it, as many as the word has tokens, and the row's segment ids."""

    ids: tuple[int, ...]
    places: tuple[int, ...]
    word: tuple[int, ...]
    types: tuple[int, ...] | None = None

    def filled(self, *which: int) -> "Slots":
        """With some of the word's tokens in place, by their number in the word."""
        ids = list(self.ids)
        for number in which:
            ids[self.places[number]] = self.word[number]
        return replace(self, ids=tuple(ids))


LogitsOf = Callable[[Sequence[Slots]], Tensor]
"""Rows -> the logits (b m v) that foresee each row's places; where a row has fewer places, what stands there is
not read."""


def slot_scores(logits_of: LogitsOf, rows: Sequence[Slots], rule: Rule, size: int) -> Tensor:
    """The log-probability (b) of each row's word by a rule; `logits_of` is asked for `size` rows at once."""
    if rule == "parallel":
        return _foreseen(logits_of, rows, size).sum(1)
    if rule == "full":
        return _each_alone(logits_of, rows, size)
    total = torch.zeros(len(rows))
    state = list(rows)
    left = [list(range(len(row.word))) for row in rows]
    while open_rows := [number for number, own in enumerate(left) if own]:
        found = _foreseen(logits_of, [state[number] for number in open_rows], size)
        for number, log_probs in zip(open_rows, found, strict=True):
            own = left[number]
            best = own[0] if rule == "left-to-right" else max(own, key=log_probs.tolist().__getitem__)
            total[number] += log_probs[best].cpu()
            state[number] = state[number].filled(best)
            own.remove(best)
    return total


def _foreseen(logits_of: LogitsOf, rows: Sequence[Slots], size: int) -> Tensor:
    """The log-probability (b m) of each token of each row's word, 0 where a word has no more."""
    parts: list[Tensor] = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        logits = logits_of(part)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        parts += token_log_probs(logits, padded([row.word for row in part]).to(logits.device)).unbind()
    return torch.nn.utils.rnn.pad_sequence(parts, True)


def _each_alone(logits_of: LogitsOf, rows: Sequence[Slots], size: int) -> Tensor:
    """Σ over a word's tokens of the log-probability of each, masked alone."""
    alone = [
        row.filled(*(other for other in range(len(row.word)) if other != number))
        for row in rows
        for number in range(len(row.word))
    ]
    found = _foreseen(logits_of, alone, size)
    numbers = torch.tensor([number for row in rows for number in range(len(row.word))], device=found.device)
    own = found.gather(1, numbers[:, None])[:, 0]
    return torch.stack([part.sum() for part in own.split([len(row.word) for row in rows])])


def padded(words: Sequence[Sequence[int]]) -> Tensor:
    """Tokens of each word (b m), −100 where it has no more."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(word) for word in words], True, -100)


def token_log_probs(logits: Tensor, words: Tensor) -> Tensor:
    """logits (… m v), words (… m') with m' ≤ m -> (… m'): each token's log-probability, 0 where there is none."""
    logits = logits[..., : words.shape[-1], :]
    flat = functional.cross_entropy(logits.flatten(0, -2), words.flatten(), ignore_index=-100, reduction="none")
    return -flat.view(words.shape)


def choice_scores(logits: Tensor, words: Tensor) -> Tensor:
    """One pass with the most masks: logits (b m v), words (c m) -> (b c), the log-probability of each label's word."""
    each = logits[:, None].expand(-1, words.shape[0], -1, -1)  # b c m v
    normaliser = logits.logsumexp(-1)[:, None]  # b 1 m
    found = each.gather(3, words.clamp(min=0).expand(logits.shape[0], -1, -1)[..., None])[..., 0] - normaliser
    return found.masked_fill(words < 0, 0.0).sum(-1)


def margin_loss(found: Tensor, goals: Tensor) -> Tensor:
    """Log-probabilities (b c), goals (b) -> (b): Σ over the wrong labels of max(0, 1 − right + wrong)."""
    right = found.gather(1, goals[:, None])
    wrong = torch.ones_like(found, dtype=torch.bool).scatter(1, goals[:, None], False)
    return ((1 - right + found).clamp(min=0) * wrong).sum(1)
