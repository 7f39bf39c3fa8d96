"""Label words found by their likelihood ratio on the training examples (PETAL; Schick et al., 2020, arXiv:2010.13641).

For each label, the words that are likeliest at its examples' masks are candidates, and those kept are the best by
Σ log p/(1 − p) over the label's examples − Σ log p/(1 − p) over the others, whose sum counts as much as the label's
(equation 7 with equation 5's balance).
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts._verbalizer import Verbalizer
from graftlm.prompts.verbalizers._words import Words, table_of, word_logits, words_of
from graftlm.sites import Tensors

NEEDS = "labels"


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


def ranked(log_probs: Tensor, goals: Tensor, label: int, among: int, allowed: Tensor) -> list[int]:
    """The `among` likeliest words at one label's masks, those first that speak for it most."""
    pool = candidates(log_probs, goals, label, among, allowed)
    return pool[ratios(log_probs[:, pool], goals, label).argsort(descending=True, stable=True)].tolist()


def resolved(config: Options, labels: Sequence[str], lexicon: Lexicon, seen: Seen) -> Options:
    """The options with the words that were found."""
    if config.words:
        return config
    log_probs = seen.logits.float().log_softmax(-1)
    texts = whole_words(lexicon, log_probs.shape[1])
    allowed = torch.tensor([text is not None for text in texts])
    found: dict[str, tuple[str, ...]] = {}
    for place, label in enumerate(labels):
        if not bool((seen.goals == place).any()):
            raise UserError(f'no training example has label "{label}", so no word can be found for it')
        order = ranked(log_probs, seen.goals, place, config.candidates, allowed)
        found[label] = _best(order, texts, config.count, lexicon)
        if not found[label]:
            raise UserError(f'none of {config.candidates} candidates is a word for "{label}"; more candidates may help')
    return config.model_copy(update={"words": found})


def whole_words(lexicon: Lexicon, size: int) -> list[str | None]:
    """Each token's text, where it is a letter and letters or digits behind it; else None."""
    tokenizer = lexicon.tokenizer
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in range(min(size, len(tokenizer)))])]
    special = set(tokenizer.all_special_ids)
    worded = [text[:1].isalpha() and text.isalnum() and token not in special for token, text in enumerate(texts)]
    known = [text if fits else None for text, fits in zip(texts, worded, strict=True)]
    return known + [None] * (size - len(known))


def _best(order: Sequence[int], texts: Sequence[str | None], count: int, lexicon: Lexicon) -> tuple[str, ...]:
    """The first `count` tokens that are words by themselves at the mask: "ful" is none, nor "##ful"."""
    found: list[str] = []
    for token in order:
        text = texts[token]
        if len(found) == count:
            break
        if text is not None and lexicon.tokens(text) == [token]:
            found.append(text)
    return tuple(found)


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    """The mean of each label's words' logits."""
    words = words_of(config.words, labels, lexicon, "refuse")
    table = table_of(words, len(labels), "refuse")

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        each = word_logits(logits[:, 0], table.places.to(logits.device), "refuse")
        return each @ table.shares.to(each).mT

    return Verbalizer(table.rows, scores, {"name": "likelihood", **config.model_dump(mode="json")})


def started(config: Options, own: Tensors, seen: Seen) -> Tensors:
    """As they are."""
    return own
