"""Label words found by their likelihood ratio on the training examples (PETAL; Schick et al., 2020, arXiv:2010.13641).

For each label, the words that are likeliest at its examples' masks are candidates, and those kept are the best by
Σ log p/(1 − p) over the label's examples − Σ log p/(1 − p) over the others, whose sum counts as much as the label's
(equation 7 with equation 5's balance).
"""

from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts.verbalizers._verbalizer import Given, Verbalizer
from graftlm.prompts.verbalizers._words import Words, table_of, word_logits, words_of
from graftlm.sites import Tensors

SEES = True


class Options(Config):
    """`count`: words a label. `candidates`: how many of the likeliest they are chosen from. `words`: what was found."""

    count: PositiveInt = 10
    candidates: PositiveInt = 1000
    words: Words = Field(default={})


TINY = 1e-15  # as the repository


def ratios(log_probs: Tensor, goals: Tensor, label: int) -> Tensor:
    """log_probs (s v) at the examples' masks, goals (s) -> (v): how much each word speaks for one label."""
    own = (goals == label).to(log_probs.dtype)
    odds = log_probs - torch.log(-torch.expm1(log_probs) + TINY)  # s v
    others = 1 - own
    return own @ odds - (own.sum() / others.sum().clamp(min=1)) * (others @ odds)


def candidates(log_probs: Tensor, goals: Tensor, label: int, count: int, allowed: Tensor) -> Tensor:
    """log_probs (s v), allowed (v) true for words -> the `count` likeliest of them at the label's masks."""
    score = log_probs[goals == label].sum(0).masked_fill(~allowed, -torch.inf)
    return score.argsort(descending=True, stable=True)[: min(count, int(allowed.sum()))]


def chosen(log_probs: Tensor, goals: Tensor, label: int, count: int, among: int, allowed: Tensor) -> list[int]:
    """The `count` best words of one label among its `among` likeliest."""
    pool = candidates(log_probs, goals, label, among, allowed)
    best = ratios(log_probs[:, pool], goals, label).argsort(descending=True, stable=True)
    return pool[best[:count]].tolist()


def resolved(options: Options, given: Given) -> Options:
    """The options with the words that were found."""
    if options.words or given.seen is None:
        return options
    log_probs = given.seen.logits.float().log_softmax(-1)
    texts = whole_words(given.tokenizer, log_probs.shape[1])
    allowed = torch.tensor([text is not None for text in texts])
    found: dict[str, tuple[str, ...]] = {}
    for number, label in enumerate(given.labels):
        if not bool((given.seen.goals == number).any()):
            raise UserError(f'no training example has label "{label}", so no word can be found for it')
        own = chosen(log_probs, given.seen.goals, number, options.count, options.candidates, allowed)
        found[label] = tuple(text for text in (texts[token] for token in own) if text is not None)
    return options.model_copy(update={"words": found})


def whole_words(tokenizer: Any, size: int) -> list[str | None]:
    """Each token as a word, where it is letters alone and the word is that token again; else None."""
    known = min(size, len(tokenizer))
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in range(known)])]
    letters = [token for token in range(known) if texts[token].isalpha() and token not in tokenizer.all_special_ids]
    spaced = tokenizer([f" {texts[token]}" for token in letters], add_special_tokens=False, verbose=False)["input_ids"]
    out: list[str | None] = [None] * size
    for token, ids in zip(letters, spaced, strict=True):
        out[token] = texts[token] if ids == [token] else None
    return out


def make(options: Options, given: Given) -> Verbalizer:
    """The mean of its words' logits for each label."""
    words = words_of(options.words, given.labels, given.tokenizer, "refuse")
    table = table_of(words, len(given.labels), "refuse")

    def score(states: Tensor, logits: Tensor, p: Tensors) -> Tensor:
        members = table.members.to(logits)
        each = word_logits(logits, table.places.to(logits.device), "refuse")
        return each @ (members / members.sum(1, keepdim=True)).mT

    return Verbalizer(table.rows, score)
