"""An architecture as data: where each role lives in a family of models, fused layers and spans included."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ROLES = (
    "embedding",
    "embedding.position",
    "embedding.type",
    "norm.embedding",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "norm.attention",
    "feedforward.input",
    "feedforward.gate",
    "feedforward.output",
    "norm.feedforward",
    "norm.final",
    "pooler",
    "lm_head",
)
SPANS = ("span.attention", "span.feedforward")


@dataclass(frozen=True)
class Fused:
    """A role inside a fused layer: its outputs seen as `groups` blocks of `parts`, it being the `part`-th.

    GPT-2's `c_attn` is one group of three parts; a layer interleaved by head has a group a head.
    `groups` and the widths of the parts (where they differ) may be names of config fields or products of them.
    """

    module: str
    part: int
    parts: int = 3
    groups: str | int = 1


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
class Head:
    """How the family's own classifier reads a sequence: the pooled token, its dense layer, the last layer's name.

    `dense` is a layer of the base model (BERT's pooler); `classifier` is the name that the family's
    `…ForSequenceClassification` gives the last layer.
    """

    pool: Literal["first", "last"]
    classifier: str
    bias: bool
    dense: str | None = None


@dataclass(frozen=True)
class Architecture:
    """One family. Layer paths are relative to the repeated block `blocks.N`, others to the backbone.

    `lm_heads` are paths relative to the whole model with an LM head; the first that exists is taken.
    """

    blocks: str
    layer: Mapping[str, str | Fused]
    model: Mapping[str, str]
    attention: str
    spans: Mapping[str, Span]
    head: Head
    lm_heads: tuple[str, ...] = ("lm_head",)
    positions: str | None = "max_position_embeddings"
