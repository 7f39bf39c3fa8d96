"""The loss over a whole vocabulary, whose logits are computed for a part of the places at a time and never kept.

Behind a frozen layer its gradient is computed with the loss, part by part; behind one that is trained each part is
computed once more in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MOST = 1 << 24  # numbers of one part's logits: 64 MiB in fp32
UNREAD = -100
Logits = Callable[[Tensor], Tensor]


def reference(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b w v), goals (b w), −100 where nothing is learned -> (b): the mean cross-entropy of a row's places."""
    return _means(_each(logits, goals), goals)


def cross_entropy(hidden: Tensor, goals: Tensor, logits_of: Logits, *, frozen: bool, most: int = MOST) -> Tensor:
    """The same from hidden (b w d) by `logits_of`, (b w' d) -> (b w' v), on at most about `most` numbers at a time.

    `frozen`: nothing that `logits_of` computes with is trained.
    """
    with torch.no_grad():
        outputs = logits_of(hidden[:1, :1]).shape[-1] if hidden.shape[1] else 1
    columns = max(1, most // (len(hidden) * outputs))
    if frozen:
        each = _Frozen.apply(hidden, goals, logits_of, columns)
        assert isinstance(each, Tensor)
        return _means(each, goals)
    parts = zip(hidden.split(columns, 1), goals.split(columns, 1), strict=True)

    def part_of(states: Tensor, own: Tensor) -> Tensor:
        return _each(logits_of(states), own)

    found: list[Any] = [checkpoint(part_of, states, own, use_reentrant=False) for states, own in parts]
    return _means(torch.cat(found, 1), goals)


class _Frozen(torch.autograd.Function):
    """The cross-entropy of each place; what backward needs is the gradient of `hidden`, made with it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, goals: Tensor, logits_of: Logits, columns: int) -> Tensor:
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if needed else None
        found: list[Tensor] = []
        for first in range(0, max(1, hidden.shape[1]), columns):
            part = slice(first, first + columns)
            with torch.set_grad_enabled(needed):
                states = hidden[:, part].detach().contiguous().requires_grad_(needed)
                each = _each(logits_of(states), goals[:, part])
                if gradient is not None:
                    (gradient[:, part],) = torch.autograd.grad(each.sum(), states)
            found.append(each.detach())
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.cat(found, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][..., None].to(gradient.dtype), None, None, None


def _each(logits: Tensor, goals: Tensor) -> Tensor:
    """The cross-entropy of each place (b w), at least in fp32; 0 where nothing is learned."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    flat = functional.cross_entropy(logits.flatten(0, 1), goals.flatten(), ignore_index=UNREAD, reduction="none")
    return flat.view(goals.shape)


def _means(each: Tensor, goals: Tensor) -> Tensor:
    return each.sum(1) / (goals != UNREAD).sum(1).clamp(min=1)
