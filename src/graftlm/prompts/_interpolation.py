"""A number between words (LM-BFF; Gao et al., 2021, arXiv:2012.15723, section 3.2).

Each word stands for a number. The score is the mean of the numbers under the words' probabilities, over the words
alone; the loss is the divergence of those from the mixture of the two neighbouring words that the right score is.
LM-BFF has two words: low + (high − low) · p(high's word), and the mixture (y − low)/(high − low).
"""

import torch
from torch import Tensor
from torch.nn import functional


def interpolated(logits: Tensor, numbers: Tensor) -> Tensor:
    """logits (b k) of words, the numbers (k) that they stand for -> the scores (b)."""
    return logits.softmax(-1) @ numbers.to(logits)


def mixture(scores: Tensor, numbers: Tensor) -> Tensor:
    """scores (b), numbers (k) in any order -> (b k): the shares of the two nearest, an end's where it is outside."""
    ordered, order = numbers.sort()
    scores = scores.to(numbers).clamp(ordered[0], ordered[-1])
    above = torch.searchsorted(ordered, scores.contiguous()).clamp(min=1)
    low, high = ordered[above - 1], ordered[above]
    share = (scores - low) / (high - low)
    found = torch.zeros(*scores.shape, len(numbers), dtype=numbers.dtype, device=numbers.device)
    found.scatter_(1, order[above - 1][:, None], 1 - share[:, None])
    return found.scatter_(1, order[above][:, None], share[:, None])


def mixture_loss(logits: Tensor, scores: Tensor, numbers: Tensor) -> Tensor:
    """logits (b k), the right scores (b), numbers (k) -> (b): KL(mixture ‖ p)."""
    right = mixture(scores, numbers.to(logits))
    return (torch.xlogy(right, right) - right * functional.log_softmax(logits, -1)).sum(-1)
