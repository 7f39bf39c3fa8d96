"""An architecture as data: where each role lives in a family of models, fused layers and spans included."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ROLES = (
    "embedding",
    "embedding.position",
    "embedding.type",
    "embedding.projection",
    "norm.embedding",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "norm.query",
    "norm.key",
    "norm.attention",
    "cross.query",
    "cross.key",
    "cross.value",
    "cross.output",
    "norm.cross",
    "feedforward.input",
    "feedforward.gate",
    "feedforward.output",
    "norm.feedforward",
    "norm.final",
    "pooler",
    "lm_head",
)
SPANS = ("span.attention", "span.cross", "span.feedforward")
STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Fused:
    """A role inside a fused layer: its outputs seen as `groups` blocks of `parts`, it being the `part`-th.

    GPT-2's `c_attn` is one group of three parts; a layer interleaved by head has a group a head. `parts` is how many
    equal parts there are, or their widths.
    """

    module: str
    part: int
    parts: int | tuple[int, ...] = 3
    groups: int = 1


@dataclass(frozen=True)
class Span:
    """A run of layers with its residual: `entry`'s input is what goes in, `exit`'s output what comes out.

    The residual that is added to the output is the input of `residual`; `norm` is the norm that follows the
    addition, or None in a pre-norm model, where nothing follows.
    """

    entry: str
    exit: str
    residual: str
    norm: str | None = None


@dataclass(frozen=True)
class Stack:
    """One tower of repeated blocks. Layer paths are relative to `blocks.N`, those of `model` to the backbone.

    `attention` and `cross` are a block's attention modules. `calls` says which block runs at each step where blocks
    are shared between layers. `places` is the position embedding, where the model is not told positions from outside.
    """

    blocks: str
    layer: Mapping[str, str | Fused]
    model: Mapping[str, str]
    attention: str
    spans: Mapping[str, Span]
    cross: str | None = None
    calls: tuple[int, ...] | None = None
    places: str | None = None


@dataclass(frozen=True)
class Head:
    """How the family's own classifier reads a sequence: the pooled token, its dense layer, the last layer's name.

    `dense` is a layer of the base model (BERT's pooler), or where `fresh` the classifier's own first layer, always
    trained; the activation follows it, and `norm`, a norm of the classifier's own. `classifier` is the name that the
    family's `…ForSequenceClassification` gives the last layer, `tagger` and `answerer` those that its
    `…ForTokenClassification` and `…ForQuestionAnswering` give theirs, where these are one layer on the same backbone.
    """

    pool: Literal["first", "last", "mean"]
    classifier: str
    bias: bool
    dense: str | None = None
    activation: Literal["tanh", "gelu", "relu"] = "tanh"
    fresh: bool = False
    dense_bias: bool = True
    norm: str | None = None
    tagger: str | None = None
    answerer: str | None = None


@dataclass(frozen=True)
class Architecture:
    """One family: one stack, named "", or an encoder and a decoder.

    `lm_heads` are paths relative to the whole model with an LM head; the first that exists is taken. `positions` is
    the config's name for how many positions there are (None: no limit), of which the first `position_offset` are
    never a token's. `checkpointing` is whether the family can trade memory for time by gradient checkpointing.
    """

    stacks: Mapping[str, Stack]
    head: Head | None
    lm_heads: tuple[str, ...] = ("lm_head",)
    positions: str | None = "max_position_embeddings"
    position_offset: int = 0
    checkpointing: bool = True
