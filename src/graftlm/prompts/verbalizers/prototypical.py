"""A prototype for each label, learned by contrast (ProtoVerb; Cui et al., 2022, arXiv:2203.09770).

States are projected to 64 numbers without a bias, and a label's score is the cosine with its prototype. Both are
fitted on frozen states by two losses, a full-batch step an epoch, and the scores are averaged with the words' own
after each were brought to mean 0 and deviation 1 over the labels. The repository stacks examples by label, and so
needs as many of each; here the same sums run over pairs, so that labels may be of any sizes.
"""

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts.verbalizers._verbalizer import Given, Verbalizer
from graftlm.prompts.verbalizers._words import Split, Words, table_of, word_logits, words_of
from graftlm.sites import Param, Tensors, zeros

SEES = True


class Options(Config):
    """`words`: each label's, for the scores that those of the prototypes are averaged with; none for prototypes alone.

    `width`: numbers that a state is projected to. `epochs` and `rate`: the fit before the run's own training, in which
    projection and prototypes go on learning.
    """

    words: Words = Field(default={})
    split: Split = "refuse"
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


def make(options: Options, given: Given) -> Verbalizer:
    """With what was seen, prototypes are fitted to it; without, their tensors wait to be loaded."""
    classes, width = len(given.labels), given.rows.shape[1]
    params = {"down": zeros(options.width, width), "prototypes": zeros(classes, options.width)}
    if given.seen is not None:
        fit = _start(options, given)
        params = {
            "down": Param((options.width, width), lambda _: fit[0]),
            "prototypes": Param((classes, options.width), lambda _: fit[1]),
        }
    words = words_of(options.words, given.labels, given.tokenizer, options.split) if options.words else []
    table = table_of(words, classes, options.split) if words else None

    def score(states: Tensor, logits: Tensor, p: Tensors) -> Tensor:
        near = prototype_scores(states, p["down"], p["prototypes"])
        if table is None:
            return near
        members = table.members.to(logits)
        each = word_logits(logits, table.places.to(logits.device), options.split)
        return together(each @ (members / members.sum(1, keepdim=True)).mT, near)

    rows = torch.zeros(0, dtype=torch.long) if table is None else table.rows
    return Verbalizer(rows, score, params, needs_states=True)


def _start(options: Options, given: Given) -> tuple[Tensor, Tensor]:
    """A projection as a linear layer starts, prototypes as Xavier's uniform, both then fitted to what was seen."""
    seen, classes, width = given.seen, len(given.labels), given.rows.shape[1]
    assert seen is not None
    if len(seen.goals.unique()) < 2:
        raise UserError("the prototypical verbalizer needs training examples of two labels at least")
    generator = torch.Generator().manual_seed(given.seed)
    down = torch.empty(options.width, width).uniform_(-1, 1, generator=generator) * width**-0.5
    bound = (6 / (classes + options.width)) ** 0.5
    prototypes = torch.empty(classes, options.width).uniform_(-bound, bound, generator=generator)
    return fitted(seen.states.float(), seen.goals, down, prototypes, options.epochs, options.rate)
