"""The product of two thin matrices added to what is there: y + scale · x downᵀ upᵀ, n of them side by side.

One pass over y and one over its gradient; x, or what gives it again, and the thin product are all that is saved. The
reference is the formula.
"""

from typing import Any

import torch
from torch import Tensor

from graftlm.kernels.recomputed import source_of


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
        h = torch.bmm(x, down.mT) * scale[:, None, None]  # n rows rank
        ctx.shape = x.shape
        ctx.source, kept = source_of(x) or (None, x)
        if ctx.source is not None:
            ctx.source.waiting += 1
        ctx.save_for_backward(kept, h, down, up, scale)
        return torch.baddbmm(y, h, up.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, h, down, up, scale = ctx.saved_tensors
        (g,) = gradients
        y_too, x_too, down_too, up_too, _ = ctx.needs_input_grad
        d_up = torch.bmm(h.mT, g).mT if up_too else None  # the thin side first: several times as quick
        dh = torch.bmm(g, up) * scale[:, None, None]  # n rows rank
        x = x if ctx.source is None else ctx.source.again(x).view(ctx.shape)
        d_down = torch.bmm(dh.mT, x) if down_too else None
        return (g if y_too else None), (torch.bmm(dh, down) if x_too else None), d_down, d_up, None


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """y (n rows d_out), x (n rows d_in), down (n rank d_in), up (n d_out rank), scale (n) -> (n rows d_out)."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type) or scale.requires_grad:
        return y + torch.bmm(torch.bmm(x, down.mT), up.mT) * scale[:, None, None]
    return _LowRank.apply(y, x, down, up, scale)  # pyright: ignore[reportReturnType]
