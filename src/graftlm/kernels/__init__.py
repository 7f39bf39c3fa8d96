"""Kernels: quicker ways to compute what torch computes, each with its reference, chosen by measuring."""

from graftlm.kernels.attention import products
from graftlm.kernels.choice import Choices, current
from graftlm.kernels.linear import Frozen, frozen

__all__ = ["Choices", "Frozen", "current", "frozen", "products"]
