"""What makes virtual tokens and prefixes of a run's tensors: nothing, or an MLP that is dropped after training."""

import torch
from torch import Tensor

from graftlm.sites import Tensors


def as_it_is(p: Tensors) -> Tensor:
    return p["values"]


def through_mlp(p: Tensors) -> Tensor:
    """tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂: embedding (n L d), W₁ (n k d), W₂ (n out k) -> (n L out)."""
    inside = torch.tanh(torch.baddbmm(p["in_bias"][:, None], p["embedding"], p["in_weight"].mT))  # n L k
    return torch.baddbmm(p["out_bias"][:, None], inside, p["out_weight"].mT)
