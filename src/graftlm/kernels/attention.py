"""Attention of short texts by batched products: softmax(scale · q kᵀ + mask) v, and its gradients.

On a CPU torch's own kernel walks over single rows, and its backward pass in bf16 is several times as slow as the
products are. This one holds the probabilities (b h t s), which are few while texts are short; `choice` measures from
which length on torch's own is quicker.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

KERNELS = ("torch", "products")
TOKENS, HEADS = 2048, 8  # of a batch that a kernel is tried on
LONGEST = 512


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # bh t d, bh s d
        probabilities = _probabilities(q, k, mask, scale, query.shape[:2])  # bh t s
        ctx.save_for_backward(query, key, value, probabilities)
        ctx.scale = scale
        return torch.bmm(probabilities, v).view(query.shape[:3] + value.shape[3:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, p = ctx.saved_tensors
        g = gradients[0].flatten(0, 1)
        wanted = ctx.needs_input_grad
        dq = dk = None
        if wanted[0] or wanted[1]:
            slope = torch.bmm(g, value.flatten(0, 1).mT)
            slope = torch.ops.aten._softmax_backward_data(slope, p, -1, p.dtype)  # bh t s
            dq = _scaled(slope, key.flatten(0, 1), ctx.scale).view_as(query) if wanted[0] else None
            dk = _scaled(slope.mT, query.flatten(0, 1), ctx.scale).view_as(key) if wanted[1] else None
        dv = torch.bmm(p.mT, g).view_as(value) if wanted[2] else None
        return dq, dk, dv, None, None


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, of batches of matrices."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, lead: torch.Size) -> Tensor:
    scores = _scaled(q, k.mT, scale)
    if mask is not None:
        by_head = scores.unflatten(0, lead)
        if mask.dtype == torch.bool:
            by_head.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        else:
            by_head.add_(mask)
    return torch.softmax(scores, -1)  # in fp32 inside, whatever the scores are in


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """query (b h t d), key and value (b h s d), mask (b or 1, h or 1, t or 1, s) true where open -> (b h t d).

    A mask of numbers is added to the scores, and gets no gradient.
    """
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return _Products.apply(query, key, value, mask, scale)  # pyright: ignore[reportReturnType]
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    return torch.bmm(_probabilities(q, k, mask, scale, query.shape[:2]), v).view(query.shape[:3] + value.shape[3:])


def bucket(length: int) -> int:
    """The lengths up to a power of two are one case."""
    return 1 << max(4, math.ceil(math.log2(max(1, length))))


def probe(kernel: str, dtype: torch.dtype, width: int, length: int, train: bool) -> Callable[[], None]:
    """Attention over texts of one length, to be timed, with its gradients if `train`."""
    shape = (max(1, TOKENS // length), length, HEADS, width)
    query, key, value, gradient = (torch.randn(shape, dtype=dtype).transpose(1, 2) for _ in range(4))
    mask = torch.ones(shape[0], 1, length, length, dtype=torch.bool)
    for x in (query, key, value):
        x.requires_grad_(train)

    def once() -> None:
        with torch.set_grad_enabled(train):
            if kernel == "products":
                out = products(query, key, value, mask, width**-0.5)
            else:
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if train:
            torch.autograd.grad(out, (query, key, value), gradient)

    return once
