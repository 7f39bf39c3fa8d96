"""Label words found by their likelihood ratio on the training examples (PETAL; Schick et al., 2020, arXiv:2010.13641).

For each label, the words that are likeliest at its examples' masks are candidates, and those kept are the best by
Σ log p/(1 − p) over the label's examples − Σ log p/(1 − p) over the others, whose sum counts as much as the label's
(equation 7 with equation 5's balance).
"""

import torch
from torch import Tensor

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
