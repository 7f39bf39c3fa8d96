"""Many words a label from a knowledge source, refined (KPT; Hu et al., 2022, arXiv:2108.02035).

Words are refined on examples without their labels: a word whose prior, its mean probability at the mask, is in the
lower half of the vocabulary's is dropped (section 3.2.1), and so is one that follows another label's name more than
its own's (section 3.2.2). Each word's probability is divided by its prior (section 3.2.3). A label's score is the log
of its words' mean (zero-shot), or the mean of their logs under learned weights, which start equal.
The norm over the other labels is the repository's; we drop what scores below 1, as the paper says, where the repository
cuts the same share of each label's words. What the vocabulary's softmax divides by is the same in all labels, so
logits at the words' rows are enough.
"""

import torch
from torch import Tensor


def prior(log_probs: Tensor) -> Tensor:
    """log_probs (s v) of examples' masks -> (v): the log of each word's mean probability."""
    return log_probs.logsumexp(0) - torch.log(torch.tensor(float(log_probs.shape[0])))


def frequent(priors: Tensor, words: list[list[int]], quantile: float) -> list[bool]:
    """priors (v), the tokens of each word -> whether none of a word's tokens is in the vocabulary's lower `quantile`."""
    low = torch.zeros(priors.shape[0], dtype=torch.bool)
    low[priors.argsort(stable=True)[: int(quantile * priors.shape[0])]] = True
    return [not bool(low[tokens].any()) for tokens in words]


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
    """logits (n b r), weights (n r), members (c r) -> (n b c): Σ softmax(weights) · log p over a label's words."""
    shares = weights[:, None, :].masked_fill(~members, -torch.inf).softmax(-1)  # n c r
    return logits @ shares.mT
