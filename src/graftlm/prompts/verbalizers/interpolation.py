"""A number between two words (LM-BFF; Gao et al., 2021, arXiv:2012.15723, section 3.2).

The score is low + (high − low) · p(high's word), p over the two words alone; the loss is the divergence of p from the
mixture that the right score is, (y − low)/(high − low).
"""

import torch
from torch import Tensor
from torch.nn import functional


def interpolated(logits: Tensor, low: float, high: float) -> Tensor:
    """logits (… 2) of the words for the lowest and the highest score -> (…)."""
    return low + (high - low) * (logits[..., 1] - logits[..., 0]).sigmoid()


def mixture_loss(logits: Tensor, scores: Tensor, low: float, high: float) -> Tensor:
    """logits (b 2), scores (b) -> (b): KL(mixture ‖ p)."""
    share = ((scores - low) / (high - low)).clamp(0, 1)
    mixture = torch.stack([1 - share, share], -1)
    return (torch.xlogy(mixture, mixture) - mixture * functional.log_softmax(logits, -1)).sum(-1)
