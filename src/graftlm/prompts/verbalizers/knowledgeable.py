"""Many words a label from a knowledge source, refined (KPT; Hu et al., 2022, arXiv:2108.02035).

Words are refined on examples without their labels: a word whose prior, its mean probability at the mask, is in the
lower half of the vocabulary's is dropped (section 3.2.1), and so is one that follows another label's name more than
its own's (section 3.2.2). Each word's probability is divided by its prior (section 3.2.3). A label's score is the log
of its words' mean (zero-shot), or the mean of their logs under learned weights, which start equal.
The norm over the other labels is the repository's; we drop what scores below 1, as the paper says, where the repository
cuts the same share of each label's words. What the vocabulary's softmax divides by is the same in all labels, so
logits at the words' rows are enough.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts._verbalizer import Verbalizer, apart
from graftlm.prompts.verbalizers._words import Several, Word, Words, notes_on, table_of, word_logits, words_of
from graftlm.sites import Tensors, zeros

NEEDS = "texts"


class Options(Config):
    """`words`: each label's, its name's first. `several`: what becomes of a word of several tokens.

    `quantile`: the share of the vocabulary, by its prior, whose words are dropped. `relevance`: words that follow
    another label's name more are dropped. `calibrate`: probabilities are divided by priors. `weights`: "mean" for no
    training, or "learned", at a learning rate of `rate`. `priors`: the log of each word's own, in the order of the
    words; what a new run finds.
    """

    words: Words
    several: Several = "first"
    quantile: NonNegativeFloat = Field(default=0.5, lt=1)
    relevance: bool = True
    calibrate: bool = True
    weights: Literal["mean", "learned"] = "learned"
    rate: PositiveFloat = 0.06
    priors: tuple[float, ...] = ()


def prior(log_probs: Tensor) -> Tensor:
    """log_probs (s v) of examples' masks -> (v): the log of each word's mean probability."""
    return log_probs.logsumexp(0) - torch.log(torch.tensor(float(log_probs.shape[0])))


def frequent(priors: Tensor, words: Sequence[Sequence[int]], quantile: float) -> list[bool]:
    """priors (v), each word's tokens -> whether none of them is in the vocabulary's lower `quantile`."""
    low = torch.zeros(priors.shape[0], dtype=torch.bool)
    low[priors.argsort(stable=True)[: int(quantile * priors.shape[0])]] = True
    return [not bool(low[list(tokens)].any()) for tokens in words]


def relevance(logits: Tensor, owners: Tensor, names: Tensor) -> Tensor:
    """logits (s r) of words on examples, owners (r) each one's label, names (c) the labels' own words -> (r).

    r(v, own) over the power mean of |r(v, other)|, where r is the correlation over the examples; below 1 a word is of
    no use, and what follows its own label's name inversely gets −1.
    """
    centred = torch.nn.functional.normalize(logits - logits.mean(0), dim=0)  # s r
    similar = centred.mT @ centred[:, names]  # r c
    classes = names.shape[0]
    own = similar.gather(1, owners[:, None])[:, 0]
    if classes == 1:
        return torch.where(own < 0, -torch.ones_like(own), torch.ones_like(own))
    order = 10 / (classes - 2 + 1e-2) + 1
    others = similar.abs().scatter(1, owners[:, None], 0.0)
    most = others.amax(1, keepdim=True).clamp(min=1e-12)  # large powers of small numbers are zero
    mean = most[:, 0] * ((others / most).pow(order).sum(1) / (classes - 1)).pow(1 / order)
    return torch.where(own < 0, -torch.ones_like(own), own / mean)


def calibrated(logits: Tensor, priors: Tensor) -> Tensor:
    """logits (… r) and log priors (r) -> (… r): the log of p / prior, up to a number that all words share."""
    return logits - priors


def mean_score(logits: Tensor, members: Tensor) -> Tensor:
    """logits (… r), members (c r) true where a word is a label's -> (… c): the log of the words' mean probability."""
    masked = logits[..., None, :].masked_fill(~members, -torch.inf)  # … c r
    return masked.logsumexp(-1) - members.sum(-1).to(logits.dtype).log()


def weighted_score(logits: Tensor, weights: Tensor, members: Tensor) -> Tensor:
    """logits (b r), weights (r), members (c r) -> (b c): Σ softmax(weights) · log p over a label's words."""
    shares = weights.expand(members.shape).masked_fill(~members, -torch.inf).softmax(-1)  # c r
    return logits @ shares.mT


def resolved(config: Options, labels: Sequence[str], lexicon: Lexicon, seen: Seen) -> Options:
    """The options with the words that stay and their priors, so that they are made again without examples."""
    if config.priors:
        return config
    words = words_of(config.words, labels, lexicon, config.several)
    logits = seen.logits.float()
    priors = prior(logits.log_softmax(-1))
    kept = frequent(priors, [word.tokens for word in words], config.quantile)
    for name in _names(words):
        kept[name] = True
    words = [word for word, stays in zip(words, kept, strict=True) if stays]
    if config.relevance:
        words = _relevant(words, logits, config.several)
    table = table_of(words, len(labels), config.several)
    own = word_logits(priors[table.rows], table.places, config.several)
    left = {label: tuple(word.text for word in words if word.label == place) for place, label in enumerate(labels)}
    return config.model_copy(update={"words": left, "priors": tuple(round(value, 6) for value in own.tolist())})


def _names(words: Sequence[Word]) -> list[int]:
    """Where each label's first word is, which stays whatever is said of it."""
    owners = [word.label for word in words]
    return [owners.index(label) for label in sorted(set(owners))]


def _relevant(words: list[Word], logits: Tensor, several: Several) -> list[Word]:
    owners, names = torch.tensor([word.label for word in words]), _names(words)
    table = table_of(words, len(names), several)
    found = relevance(word_logits(logits[:, table.rows], table.places, several), owners, torch.tensor(names))
    return [word for place, word in enumerate(words) if place in names or found[place] >= 1]


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    """The verbalizer of what `resolved` gave; without priors nothing is calibrated."""
    words = words_of(config.words, labels, lexicon, config.several)
    table = table_of(words, len(labels), config.several)
    if config.weights != "learned":
        apart(labels, [frozenset(map(tuple, table.places[own].tolist())) for own in table.members])
    priors = torch.tensor(config.priors) if config.calibrate and config.priors else torch.zeros(len(words))
    if len(priors) != len(words):
        raise UserError(f"prompt.verbalizer.priors has {len(priors)} numbers for {len(words)} words")
    learned = config.weights == "learned"

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        each = word_logits(logits[:, 0], table.places.to(logits.device), config.several)
        each, members = calibrated(each, priors.to(each)), table.members.to(logits.device)
        return weighted_score(each, own["weights"].to(each), members) if learned else mean_score(each, members)

    stored = {"name": "knowledgeable", **config.model_dump(mode="json")}
    params = {"weights": zeros(len(words))} if learned else {}
    rate, notes = config.rate if learned else None, notes_on(config.words, words, config.several)
    return Verbalizer(table.rows, scores, stored, params=params, rate=rate, notes=notes)


def started(config: Options, own: Tensors, seen: Seen) -> Tensors:
    """As they are."""
    return own
