"""DoRA (Liu et al., 2024, arXiv:2402.09353): W' = m ⊙ V / ‖V‖ by row, V = W + scale · up down; the bias is added after.

Dropout is on the x of scale · up down x alone; (m / ‖V‖ − 1) ⊙ W x takes x as it is, where PEFT drops that too.

What other changes there are of the same layer stands beside W' − W, and is not decomposed.

‖V‖ is a plain number to the gradient (§4.3). It is worked out without V, from
‖V‖² = ‖W‖² + 2 scale · Σ (W downᵀ) ∘ up + scale² · Σ (up (down downᵀ)) ∘ up.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graftlm.sites import Param, Tensors, View


def magnitude(weight: Callable[[], Tensor], d_out: int) -> Param:
    """m (d_out), which starts at the norms of the frozen rows."""
    return Param((d_out,), lambda _: row_squares(_wide(weight())).sqrt())


def row_squares(weight: Tensor) -> Tensor:
    """weight (d_out d_in) -> (d_out)."""
    return weight.square().sum(-1)


def norms(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """‖V‖ of each row: weight (d_out d_in), down (n rank d_in), up (n d_out rank), scale (n) -> (n d_out).

    A row of zeros gets norm 1: its magnitude starts at 0, and 0 / 0 would be no number.
    """
    scale = scale[:, None]
    crossed = (F.linear(down, weight).mT * up).sum(-1)  # n d_out
    own = (torch.bmm(up, torch.bmm(down, down.mT)) * up).sum(-1)  # n d_out
    found = (row_squares(weight) + 2 * scale * crossed + scale.square() * own).clamp(min=0).sqrt()
    return torch.where(found > 0, found, 1)


def decomposed(
    y: Tensor,
    frozen: Tensor,
    bias: Tensor | None,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    scale: Tensor,
    gain: Tensor,
) -> Tensor:
    """y + (gain − 1) ⊙ (frozen − bias) + gain ⊙ scale · x downᵀ upᵀ, where frozen = W x + bias.

    y and frozen (n rows d_out), bias (d_out), x (n rows d_in), gain (n d_out) -> (n rows d_out).
    """
    h = torch.bmm(x, down.mT)  # n rows rank
    more = gain - 1  # n d_out
    y = torch.addcmul(y if bias is None else y - (more * bias)[:, None], frozen, more[:, None])
    return torch.baddbmm(y, h, (up * (scale[:, None] * gain)[..., None]).mT)


def forward(view: View, p: Tensors) -> Tensor:
    with torch.no_grad(), torch.autocast(view.y.device.type, enabled=False):
        norm = view.worked_out("norm", _norms, p)
    gain = p["magnitude"] / norm
    x = view.dropout(view.x)
    return decomposed(view.y, view.frozen, view.bias, x, p["down"], p["up"], p["scale"], gain)


def merge(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    """W' in place of W in the weight, which is W itself unless another change came before."""
    frozen = p["frozen"]
    changed = frozen + p["scale"] * (p["up"] @ p["down"])
    norm = norms(frozen, p["down"][None], p["up"][None], p["scale"][None])[0]
    return weight + (changed * (p["magnitude"] / norm)[:, None] - frozen), bias


def _norms(view: View, p: Tensors) -> Tensor:
    found = norms(_wide(view.weight), *(_wide(p[name]) for name in ("down", "up", "scale")))
    return found.to(p["magnitude"].dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
