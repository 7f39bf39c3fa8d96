"""Outputs of norms and activations that a backward pass computes again, so that they need not be kept.

A norm keeps its input for its own gradient, and so do GELU and SiLU. A branch behind one needs the output for the
gradient of its weights, which that input gives again, bit for bit and for little arithmetic.
"""

from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import activations

KEEP_THEIR_INPUT = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.SiLU),
    *(activations.GELUActivation, activations.NewGELUActivation, activations.FastGELUActivation),
    *(activations.QuickGELUActivation, activations.GELUTanh, activations.AccurateGELUActivation),
)


@dataclass
class Source:
    """What makes an output of its input. `waiting`: how many backward passes have still to ask for it."""

    module: nn.Module
    waiting: int = 0
    _made: Tensor | None = None

    def again(self, x: Tensor) -> Tensor:
        """The output for the kept input x; made once for all that wait for it."""
        self.waiting -= 1
        made = type(self.module).forward(self.module, x) if self._made is None else self._made
        self._made = made if self.waiting > 0 else None
        return made


@dataclass
class _Known:
    output: ReferenceType[Tensor]
    version: int
    source: Source
    input: Tensor


_known: dict[int, _Known] = {}  # by where the output's numbers lie


def recomputable(module: nn.Module) -> bool:
    """Whether a module's output can be computed again from what it keeps: it is frozen and has no state of its own."""
    kind = type(module)
    known = kind in KEEP_THEIR_INPUT or kind.__name__.endswith(("LayerNorm", "RMSNorm"))
    return known and not any(parameter.requires_grad for parameter in module.parameters())


def watch(module: nn.Module) -> RemovableHandle:
    """Has `source_of` know the module's outputs, from now on."""
    return module.register_forward_hook(_remember)


def _remember(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not output.requires_grad:
        return
    if torch.is_autocast_enabled(output.device.type) or not args or not args[0].requires_grad:
        return
    place = output.data_ptr()

    def forget(gone: ReferenceType[Tensor]) -> None:
        if (known := _known.get(place)) is not None and known.output is gone:
            del _known[place]

    _known[place] = _Known(ref(output, forget), output._version, Source(module), args[0])


def source_of(x: Tensor) -> tuple[Source, Tensor] | None:
    """What gives x again and of what, where it is all of a watched module's output, as it was made."""
    known = _known.get(x.data_ptr())
    output = None if known is None else known.output()
    if known is None or output is None or output._version != known.version or x.numel() != output.numel():
        return None
    return (known.source, known.input) if x.is_contiguous() and output.is_contiguous() else None
