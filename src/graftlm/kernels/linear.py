"""Frozen linear layers: y = x Wᵀ + b with a gradient for x alone, through oneDNN where it is quicker than torch's own.

The weight is a constant, so nothing is saved for the backward pass: dx = dy W. oneDNN takes the weight as it lies, in
either direction; its packed forms (`packed`) cost twice the weight's memory and are made where that is asked for.
The operators are private to torch, so `choice` tries them, and `torch` is what happens without them.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

ROWS, NEW = 512, 64  # of a product that a kernel is tried on, and how many numbers of rows there are besides
LAYERS, LARGE = 6, 1 << 22  # products of a shape in a small model's step; numbers of a weight whose product is long
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the outputs' norm


@dataclass(frozen=True)
class Frozen:
    """A frozen weight (d_out d_in) and the products with it: `forward` is x Wᵀ + b, `backward` is dy W."""

    kernel: str
    forward: Callable[[Tensor, Tensor | None], Tensor]
    backward: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (… d_in) -> (… d_out)."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _Linear.apply(x, bias, self)  # pyright: ignore[reportReturnType]
        return self.forward(x, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, frozen: Frozen) -> Tensor:
        ctx.frozen = frozen
        return frozen.forward(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.frozen.backward(gradients[0]), None, None


def frozen(weight: Tensor, kernel: str) -> Frozen:
    """The products with a weight (d_out d_in) by one of `kernels`."""
    return _MAKERS[kernel](weight)


def kernels(weight: Tensor) -> list[str]:
    """What there is for a weight on this machine, the reference first."""
    known = ["torch"]
    if weight.device.type == "cpu" and weight.dtype in TOLERANCE and torch.backends.mkldnn.is_available():
        known += ["onednn", "packed"]
    return [kernel for kernel in known if kernel == "torch" or _exact(weight.dtype, kernel)]


def probe(weight: Tensor, kernel: str) -> Callable[[], None]:
    """Some forward and backward products, to be timed.

    They are of another number of rows each time, since texts have many lengths and oneDNN compiles for each.
    """
    made = frozen(weight.detach(), kernel)
    x = torch.randn(ROWS + NEW, weight.shape[1], dtype=weight.dtype)
    gradient = torch.randn(ROWS + NEW, weight.shape[0], dtype=weight.dtype)
    rows = itertools.cycle(range(ROWS, ROWS + NEW))

    def once() -> None:
        own = next(rows)
        for _ in range(max(1, min(LAYERS, LARGE // weight.numel()))):
            made.forward(x[:own], None)
            made.backward(gradient[:own])

    return once


def _torch(weight: Tensor) -> Frozen:
    return Frozen("torch", lambda x, bias: F.linear(x, weight, bias), lambda gradient: gradient @ weight)


def _onednn(weight: Tensor) -> Frozen:
    turned = weight.T
    return Frozen("onednn", lambda x, bias: _product(x, weight, bias), lambda gradient: _product(gradient, turned))


def _packed(weight: Tensor) -> Frozen:
    pack = torch.ops.mkldnn._reorder_linear_weight
    ahead, back = pack(weight.contiguous(), ROWS), pack(weight.T.contiguous(), ROWS)
    return Frozen("packed", lambda x, bias: _product(x, ahead, bias), lambda gradient: _product(gradient, back))


_MAKERS = {"torch": _torch, "onednn": _onednn, "packed": _packed}


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


_found: dict[tuple[torch.dtype, str], bool] = {}


def _exact(dtype: torch.dtype, kernel: str) -> bool:
    """Whether a kernel runs here and gives what the products are."""
    if (dtype, kernel) not in _found:
        try:
            _found[dtype, kernel] = _error(dtype, kernel) <= TOLERANCE[dtype]
        except (AttributeError, RuntimeError, TypeError):  # this torch has no such operator, or another signature
            _found[dtype, kernel] = False
    return _found[dtype, kernel]


@torch.no_grad()
def _error(dtype: torch.dtype, kernel: str) -> float:
    generator = torch.Generator().manual_seed(0)
    weight, x, bias, gradient = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((48, 32), (2, 9, 32), (48,), (2, 9, 48))
    )
    made, wide = frozen(weight, kernel), weight.double()
    pairs = (
        (made.forward(x, bias), F.linear(x.double(), wide, bias.double())),
        (made.forward(x, None), F.linear(x.double(), wide)),
        (made.backward(gradient), gradient.double() @ wide),
    )
    return max(float((found - wanted).norm() / wanted.norm()) for found, wanted in pairs)


def _flops(x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * x_shape.numel() * weight_shape[0]


if torch.backends.mkldnn.is_available():
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)
