"""One site: a place of a model where a method may act, and the attention modules that take prefixes."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.sites._table import Fused, Span

Kind = Literal["linear", "norm", "embedding", "span"]


@dataclass(frozen=True)
class Rows:
    """Which outputs of a fused layer: the width seen as (groups, width of a group), `start:stop` of each group."""

    groups: int
    width: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.groups * (self.stop - self.start)

    def of_outputs(self, y: Tensor) -> Tensor:
        """The rows' part of outputs (…, groups · width) -> (…, count)."""
        if self.groups == 1:
            return y[..., self.start : self.stop]
        return y.unflatten(-1, (self.groups, self.width))[..., self.start : self.stop].flatten(-2)


@dataclass(frozen=True)
class Site:
    """One place. `module` is a path in the model; `rows` picks a part of a fused layer; `span` is set for spans.

    `stack` is "encoder" or "decoder" in a model that has both; `layer` counts from 0 in each.
    """

    role: str
    layer: int | None
    module: str
    kind: Kind
    d_in: int
    d_out: int
    has_bias: bool
    rows: Rows | None = None
    span: Span | None = None
    stack: str = ""

    @property
    def name(self) -> str:
        """The site's name in our files, the same in every architecture: `3.attention.query`."""
        return ".".join(str(part) for part in (self.stack, self.layer, self.role) if part not in ("", None))

    @property
    def stream(self) -> str:
        """The stack whose tokens this site sees: keys and values of cross attention see the encoder's."""
        return "encoder" if self.role in ("cross.key", "cross.value") else self.stack

    def means(self, word: str) -> bool:
        """Whether a role's name means this site.

        Of an encoder-decoder, "attention.query" means every attention's, "decoder.attention.query" and
        "cross.query" one kind's.
        """
        stack, _, rest = word.partition(".")
        if self.stack and stack == self.stack:
            return self.role == rest
        return word in (self.role, self.role.replace("cross", "attention"))


@dataclass(frozen=True)
class Attention:
    """One attention of one layer: its module, its place among the module's calls, and the shape of keys and values.

    `part` is "" in a model of one stack, else "encoder", "decoder" or "cross".
    """

    part: str
    layer: int
    module: str
    heads: int
    head_width: int


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def is_norm(module: nn.Module) -> bool:
    """Whether a layer is a norm of whole vectors, of torch's own class or of a family's."""
    if isinstance(module, nn.LayerNorm):
        return True
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    return named and isinstance(weight, Tensor) and weight.dim() == 1


def shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a layer."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dim() == 1:
        return weight.shape[0], weight.shape[0]
    if isinstance(module, (Conv1D, nn.Embedding)):
        return weight.shape[0], weight.shape[1]
    return weight.shape[1], weight.shape[0]


def layer_site(
    role: str, layer: int | None, path: str, module: nn.Module, place: Fused | None = None, stack: str = ""
) -> Site:
    kind: Kind = "norm" if is_norm(module) else "embedding" if isinstance(module, nn.Embedding) else "linear"
    d_in, d_out = shape(module)
    rows = None if place is None else _rows(place, d_out)
    bias = getattr(module, "bias", None) is not None
    return Site(role, layer, path, kind, d_in, rows.count if rows else d_out, bias, rows, stack=stack)


def _rows(place: Fused, width: int) -> Rows:
    width //= place.groups
    parts = place.parts if isinstance(place.parts, tuple) else (width // place.parts,) * place.parts
    start = sum(parts[: place.part])
    return Rows(place.groups, width, start, start + parts[place.part])
