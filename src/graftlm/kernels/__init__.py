"""Kernels: quicker ways to compute what torch computes, each with its reference, chosen by measuring."""

from graftlm.kernels.attention import products
from graftlm.kernels.choice import Choices, current
from graftlm.kernels.linear import Frozen, frozen
from graftlm.kernels.low_rank import add_low_rank
from graftlm.kernels.memory import keep_freed
from graftlm.kernels.recomputed import recomputable, watch

__all__ = [
    "Choices",
    "Frozen",
    "add_low_rank",
    "current",
    "frozen",
    "keep_freed",
    "products",
    "recomputable",
    "watch",
]
