"""The four ways to act, as data: what a method adds at a place, its tensors, and the pure function that uses them.

Functions are module-level and take their numbers from `constants`, so that runs of one method share a bank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

from graftlm.sites._site import Attention, Site

if TYPE_CHECKING:
    from graftlm.sites._view import View

PROMPT = "prompt"  # where virtual tokens stand in front of the text
Tensors = Mapping[str, Tensor]
Merge = Callable[[Tensor, "Tensor | None", Tensors], "tuple[Tensor, Tensor | None]"]


@dataclass(frozen=True)
class Param:
    """One tensor of one run: its shape and how it starts, drawn on the CPU in fp32. Not all need be `trained`.

    `decays` is of a vector that weight decay shrinks as it does a matrix.
    """

    shape: tuple[int, ...]
    init: Callable[[Generator], Tensor]
    trained: bool = True
    decays: bool = False

    @property
    def count(self) -> int:
        return torch.Size(self.shape).numel()


def zeros(*shape: int) -> Param:
    return Param(shape, lambda _: torch.zeros(shape))


def ones(*shape: int) -> Param:
    return Param(shape, lambda _: torch.ones(shape))


def normal(*shape: int, std: float) -> Param:
    return Param(shape, lambda generator: torch.randn(shape, generator=generator) * std)


def uniform(*shape: int, low: float, high: float) -> Param:
    return Param(shape, lambda generator: torch.empty(shape).uniform_(low, high, generator=generator))


def truncated_normal(*shape: int, std: float) -> Param:
    """Normal, cut at two standard deviations."""

    def init(generator: Generator) -> Tensor:
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)

    return Param(shape, init)


def kaiming_uniform(*shape: int, fan_in: int | None = None) -> Param:
    """U(±1/√fan_in): Kaiming-uniform with a = √5, PyTorch's default for a linear layer's weight and bias."""
    bound = (fan_in or shape[-1]) ** -0.5
    return uniform(*shape, low=-bound, high=bound)


@dataclass(frozen=True)
class Branch:
    """Change a site's output: `forward` takes the view of the site and the runs' tensors, and gives the new output.

    With `where` = "input" it is the layer's input that `forward` gets and gives (as `view.y`), before the layer runs.
    `constants` are numbers of a run (a scale); `dropout` is the rate that `View.dropout` uses. `rates` multiplies the
    run's learning rate for some tensors. `keep` makes of one run's tensors what is stored, where that is another
    form (the form of the method's `kept` config). `gate_input` is what a gate on the branch reads, where that is not
    the layer's input. `whole_text` says what the branch does with an example's whole text, where it needs it.
    `wide` has it computed in fp32 where the activations are narrower, since small differences of large numbers matter.
    `merge` folds one run's tensors into the site's weight (d_out d_in) and bias, which other branches may have changed;
    the tensors have the weight before that as `frozen`. It is None where nothing can be folded.
    """

    site: Site
    params: Mapping[str, Param]
    forward: "Callable[[View, Tensors], Tensor]"
    constants: Mapping[str, float] = field(default_factory=dict)
    dropout: float = 0.0
    merge: Merge | None = None
    where: Literal["output", "input"] = "output"
    rates: Mapping[str, float] = field(default_factory=dict)
    keep: "Callable[[Tensors], Tensors] | None" = None
    gate_input: "Callable[[View], Tensor] | None" = None
    whole_text: str = ""
    wide: bool = False

    @property
    def stream(self) -> str:
        """The stack whose tokens the act sees."""
        return self.site.stream


@dataclass(frozen=True)
class Past:
    """Extra keys and values at every attention of one part of the backbone.

    `derive` makes the prefixes (n, length, layers · 2 · heads · head width), key then value in each layer, from the
    runs' tensors, once a forward pass. Real tokens' positions move by `position_shift`. `gate` scales an example's
    prefix: it takes the view of what the attention reads, the tensors and the layer's number, and gives (n b 1). It
    reads the tensors named in `stored`, which `derive` does not.
    """

    params: Mapping[str, Param]
    derive: Callable[[Tensors], Tensor]
    length: int
    attentions: Sequence[Attention]
    position_shift: int = 0
    dropout: float = 0.0
    gate: "Callable[[View, Tensors, int], Tensor] | None" = None
    stored: tuple[str, ...] = ()
    whole_text: str = ""

    @property
    def stream(self) -> str:
        return "decoder" if self.part == "cross" else self.part

    @property
    def part(self) -> str:
        return self.attentions[0].part

    @property
    def place(self) -> str:
        return f"prefix.{self.part}" if self.part else "prefix"


@dataclass(frozen=True)
class Tokens:
    """Virtual tokens: `derive` makes the runs' table (n, length, width) once a forward pass.

    A run's virtual tokens are ids at and above the vocabulary size, these from the `first`-th on. In the place "prompt"
    they stand in front of the text, and take positions 0 to length − 1; with `position_shift` = −length the real
    tokens start at 0 as well. In another place it is the text's ids that have them anywhere. Where `from_input` is
    given, the table is an example's own: `derive` is not asked, and `from_input` takes the mean embedding of each
    row's text (n rows d) and the runs' tensors, and gives (n rows length · d). Runs share a bank only where `alike` is
    the same. `stream` is the stack whose embedding looks them up: the encoder, where a model has both.
    """

    params: Mapping[str, Param]
    derive: Callable[[Tensors], Tensor]
    length: int
    position_shift: int = 0
    from_input: "Callable[[Tensor, Tensors], Tensor] | None" = None
    alike: tuple[int, ...] = ()
    stream: str = ""
    whole_text: str = ""
    first: int = 0
    place: str = PROMPT


@dataclass(frozen=True)
class Select:
    """Train one of the base's own parameters in place: the one way that cannot share the base."""

    parameter: str


Act = Branch | Past | Tokens | Select
