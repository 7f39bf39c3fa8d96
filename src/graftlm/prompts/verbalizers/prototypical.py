"""A prototype for each label, learned by contrast (ProtoVerb; Cui et al., 2022, arXiv:2203.09770).

States are projected to 64 numbers without a bias, and a label's score is the cosine with its prototype. Both are
fitted on frozen states by two losses, a full-batch step an epoch, and the scores are averaged with the words' own
after each were brought to mean 0 and deviation 1 over the labels. The repository stacks examples by label, and so
needs as many of each; here the same sums run over pairs, so that labels may be of any sizes.
The run then learns by its words alone, and the prototypes go on with it by the first loss, on states that learn nothing
from them; the repository fits them when the run has ended.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts._verbalizer import Verbalizer
from graftlm.prompts.verbalizers._words import Several, Table, Words, notes_on, table_of, word_logits, words_of
from graftlm.sites import Tensors, kaiming_uniform, normal

NEEDS = "labels"


class Options(Config):
    """`words`: each label's, for the scores that those of the prototypes are averaged with; none for prototypes alone.

    `width`: numbers that a state is projected to. `epochs` and `rate`: the fit before the run's own training, in which
    projection and prototypes go on learning.
    """

    words: Words = Field(default={})
    several: Several = "refuse"
    width: PositiveInt = 64
    epochs: PositiveInt = 5
    rate: PositiveFloat = 1e-3


def prototype_scores(states: Tensor, down: Tensor, prototypes: Tensor) -> Tensor:
    """states (… b d), down (… k d), prototypes (… c k) -> (… b c): cosines."""
    return cosine(states @ down.mT, prototypes)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """x (… a k), y (… b k) -> (… a b)."""
    return functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).mT


def prototype_loss(x: Tensor, prototypes: Tensor, goals: Tensor) -> Tensor:
    """x (s k), prototypes (c k), goals (s) -> the mean cross-entropy of cosines, over the number of labels."""
    return functional.cross_entropy(cosine(x, prototypes), goals) / prototypes.shape[0]


def instance_loss(x: Tensor, goals: Tensor) -> Tensor:
    """x (s k), goals (s): Σ over pairs (a, b) of one label, a = b too, of
    −log e^{s(a,b)} / (e^{s(a,b)} + Σ_{j of another label} e^{s(j,b)}), over s².
    """
    similar = cosine(x, x)  # s s
    same = goals[:, None] == goals
    others = similar.masked_fill(same, -torch.inf).logsumexp(0)  # s, by column
    each = torch.logaddexp(similar, others.expand_as(similar)) - similar
    return each[same].sum() / x.shape[0] ** 2


def together(words: Tensor, prototypes: Tensor) -> Tensor:
    """Two sets of scores (… c) -> their mean after each has mean 0 and deviation 1 over the labels."""
    return (standardised(words) + standardised(prototypes)) / 2


def standardised(scores: Tensor) -> Tensor:
    """scores (… c) -> (… c); scores that are all the same become 0."""
    spread = scores.var(-1, keepdim=True)
    return (scores - scores.mean(-1, keepdim=True)) / (spread + torch.finfo(scores.dtype).tiny).sqrt()


def fitted(
    states: Tensor, goals: Tensor, down: Tensor, prototypes: Tensor, epochs: int, rate: float
) -> tuple[Tensor, Tensor]:
    """`down` (k d) and `prototypes` (c k) after `epochs` full-batch steps of Adam on frozen states (s d)."""
    down, prototypes = (tensor.detach().clone().requires_grad_() for tensor in (down, prototypes))
    optimizer = torch.optim.Adam([down, prototypes], lr=rate)
    with torch.enable_grad():
        for _ in range(epochs):
            x = states.detach() @ down.mT
            loss = prototype_loss(x, prototypes, goals) + instance_loss(x, goals)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return down.detach(), prototypes.detach()


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    """Its tensors start as `started` says, or are loaded."""
    words = words_of(config.words, labels, lexicon, config.several) if config.words else []
    table = table_of(words, len(labels), config.several) if words else None

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        near = prototype_scores(states[:, 0].to(own["down"]), own["down"], own["prototypes"])
        return near if table is None else together(_of_words(logits, table, config.several), near)

    def learns(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        """(b c), the cosines, which the states learn from where there are no words; (b 2c), those and the words'."""
        if table is None:
            return scores(states, logits, own)
        near = prototype_scores(states[:, 0].detach().to(own["down"]), own["down"], own["prototypes"])
        return torch.cat([near, _of_words(logits, table, config.several)], 1)

    def loss(found: Tensor, goals: Tensor) -> Tensor:
        near, words = found[:, : len(labels)], found[:, len(labels) : 2 * len(labels)]
        own = functional.cross_entropy(near, goals, reduction="none")
        return own if table is None else own / len(labels) + functional.cross_entropy(words, goals, reduction="none")

    rows = torch.zeros(0, dtype=torch.long) if table is None else table.rows
    params = {
        "down": kaiming_uniform(config.width, lexicon.width),
        "prototypes": normal(len(labels), config.width, std=(2 / (len(labels) + config.width)) ** 0.5),
    }
    stored = {"name": "prototypical", **config.model_dump(mode="json")}
    notes = notes_on(config.words, words, config.several)
    return Verbalizer(rows, scores, stored, params=params, learns=learns, loss=loss, notes=notes)


def _of_words(logits: Tensor, table: Table, several: Several) -> Tensor:
    """logits (b m r) -> (b c): the mean of each label's words'."""
    each = word_logits(logits[:, 0], table.places.to(logits.device), several)
    return each @ table.shares.to(each).mT


def resolved(config: Options, labels: Sequence[str], lexicon: Lexicon, seen: Seen) -> Options:
    """As they are."""
    return config


def started(config: Options, own: Tensors, seen: Seen) -> Tensors:
    """A run's fresh tensors, fitted to what was seen."""
    if len(seen.goals.unique()) < 2:
        raise UserError("the prototypical verbalizer needs training examples of two labels at least")
    down, prototypes = fitted(
        seen.states.float(), seen.goals, own["down"], own["prototypes"], config.epochs, config.rate
    )
    return {"down": down, "prototypes": prototypes}
