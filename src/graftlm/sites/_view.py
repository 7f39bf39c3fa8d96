"""What a method sees of a site: its input and output by run, and on request its weight, residual, norm and mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.sites._dropout import keyed_dropout
from graftlm.sites._route import Chunk
from graftlm.sites._site import Rows, Site

if TYPE_CHECKING:
    from graftlm.sites._bank import Bank
    from graftlm.sites._router import Router

Tensors = Mapping[str, Tensor]


@dataclass
class Kept:
    """A tensor that a span's entry keeps for its exit."""

    value: Tensor | None = None


@dataclass
class Ends:
    """What a span's exit needs from before it: its input, the residual, and the norm that follows the addition."""

    entry: Kept
    residual: Kept
    norm: nn.Module | None


@dataclass
class View:
    """One site for one chunk of rows. n runs, r rows of a run (examples · tokens), d width.

    y (n r d_out) is the output so far. Everything else is computed when it is asked for, in `dtype` where one is given.
    """

    site: Site
    module: nn.Module
    chunk: Chunk
    router: "Router"
    input: Tensor
    output: Tensor
    y: Tensor
    rate: Tensor | None = None
    salt: int = 0
    ends: Ends | None = None
    bank: "Bank | None" = None
    dtype: torch.dtype | None = None

    def _by_run(self, x: Tensor) -> Tensor:
        found = by_run(x, self.chunk, self.router)
        return found.to(self.dtype) if self.dtype is not None and found.is_floating_point() else found

    def _kept(self, kept: Kept) -> Tensor:
        """What a span's entry has kept, at the one place that its exit is computed at, where it is one."""
        assert kept.value is not None, "a span's exit ran before its entry"
        place = self.router.place
        return place.take(kept.value) if place is not None and place.fits(kept.value) else kept.value

    @property
    def x(self) -> Tensor:
        """The layer's input, or what goes into the span: (n r d_in)."""
        return self._by_run(self.input if self.ends is None else self._kept(self.ends.entry))

    @property
    def frozen(self) -> Tensor:
        """The site's own output, before any branch: (n r d_out)."""
        return self._by_run(self.output)

    @property
    def residual(self) -> Tensor:
        """What is added to a span's output: (n r d)."""
        assert self.ends is not None
        return self._by_run(self._kept(self.ends.residual))

    def norm(self, h: Tensor) -> Tensor:
        """The frozen norm that follows a span's addition, (n r d) -> (n r d); the identity in a pre-norm model."""
        assert self.ends is not None
        if self.ends.norm is None:
            return h
        weight = next(self.ends.norm.parameters(), h)
        return self.ends.norm(h.to(weight.dtype)).to(h.dtype)

    @property
    def normalised(self) -> Tensor:
        """A norm site's input, normalised but not scaled or shifted: (n r d)."""
        x = self.x
        if isinstance(self.module, nn.LayerNorm):
            return F.layer_norm(x, self.module.normalized_shape, None, None, self.module.eps)
        return rms_normalised(x, self.module)

    @property
    def weight(self) -> Tensor:
        """The site's frozen rows, (d_out d_in)."""
        return frozen_weight(self.module, self.site.rows)

    @property
    def bias(self) -> Tensor | None:
        """The site's frozen bias, (d_out)."""
        bias = getattr(self.module, "bias", None)
        return bias if bias is None or self.site.rows is None else self.site.rows.of_outputs(bias)

    @property
    def heads(self) -> int:
        """How many places a token has here: a norm of each head is given (rows tokens heads width)."""
        return self.input.shape[2] if self.input.dim() == 4 else 1

    def mean(self, h: Tensor, padded: bool = False) -> Tensor:
        """h (n r k) averaged over the real tokens of each example, or with `padded` over all places: (n b k)."""
        places = self.chunk.rows(self.router.by_example(self.input))
        by_row = h.reshape(places.shape[0], -1, h.shape[-1])  # rows t k
        if padded:
            found = by_row.mean(1)
        else:
            real = self.router.real(self.chunk, places[:, :: self.heads], self.site.stream)
            weights = real.repeat_interleave(self.heads, 1).to(h.dtype)[..., None]
            found = torch.where(weights > 0, by_row, 0).sum(1) / weights.sum(1).clamp(min=1)
        return found.reshape(h.shape[0], -1, h.shape[-1])

    def over_tokens(self, g: Tensor) -> Tensor:
        """A value an example (n b k), given to each of its tokens: (n r k)."""
        tokens = self.router.by_example(self.input).shape[1]
        return g[:, :, None].expand(-1, -1, tokens, -1).flatten(1, 2)

    def note(self, name: str, g: Tensor) -> None:
        """Records a gate's values (n b 1) under its layer, role and name, where someone asked to see them."""
        self.router.note(self.site, name, g)

    def worked_out(self, name: str, make: Callable[["View", Tensors], Tensor], p: Tensors) -> Tensor:
        """What `make` gives for the runs' tensors, (n …); remembered while no gradient is wanted, but not in training.

        In training, where some optimizers write to tensors unseen, it is made anew, once a run rather than once a row.
        """
        if self.bank is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make(self, p)
        if self.router.training:
            return (
                make(self, p) if self.chunk.index is None else self.chunk.pick(make(self, self.bank.every(self.dtype)))
            )
        return self.chunk.pick(self.bank.remembered(name, self.dtype, lambda every: make(self, every)))

    def dropout(self, h: Tensor) -> Tensor:
        """h (n r d) with the run's own dropout while training; see `keyed_dropout`."""
        if self.rate is None or not self.router.training:
            return h
        keys = self.router.row_keys(self.chunk)
        by_row = h.reshape(keys.shape[0], -1, h.shape[-1])
        positions = self.router.row_positions(self.chunk, by_row[:, :: self.heads], self.site.stream)
        if self.heads > 1:
            each = torch.arange(self.heads, device=positions.device)
            positions = (positions[..., None] * self.heads + each).flatten(1)
        rate = self.chunk.spread(self.rate, keys.shape[0])
        return keyed_dropout(by_row, keys, positions, self.salt, rate).reshape(h.shape)


def compute_dtype(y: Tensor, wide: bool = False) -> torch.dtype | None:
    """What a branch is computed in: the activations' dtype, or fp32 at least; None where autocast looks after it."""
    if torch.is_autocast_enabled(y.device.type):
        return None
    return torch.promote_types(y.dtype, torch.float32) if wide else y.dtype


def by_run(x: Tensor, chunk: Chunk, router: "Router") -> Tensor:
    """A chunk's rows of x, which a layer may have been given flattened, as (n r d)."""
    return chunk.by_run(x if chunk.whole else chunk.rows(router.by_example(x)))


def rms_normalised(x: Tensor, module: nn.Module) -> Tensor:
    """x / √(mean x² + ε) in fp32 at least, as the families' RMSNorm classes compute it."""
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 1e-6
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def frozen_weight(module: nn.Module, rows: Rows | None) -> Tensor:
    """A layer's weight as (d_out d_in), for `Conv1D` too, or the rows of it that a site names."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dim() == 1:
        return weight
    if isinstance(module, (Conv1D, nn.Embedding)):
        weight = weight.T
    return weight if rows is None else rows.of_outputs(weight.T).T
