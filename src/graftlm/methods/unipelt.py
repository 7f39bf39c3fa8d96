"""UniPELT (Mao et al., 2021, arXiv:2110.07577): a Pfeiffer adapter, a prefix and LoRA on query and value in every
layer, each with a gate that the example opens.

g = mean over tokens of σ(w · h_t + b). The adapter's gate reads the adapter's input, the others what the attention
reads. LoRA: y + g · up down x, where g stands for alpha / rank. Adapter: o + g · up relu(down · a). Prefix: Attn(q,
[g P_k; K], [g P_v; V]); real tokens start at position 0. `ap` is the form without LoRA. A prefix with g = 0 is not the
base: its zero keys still take their share of the softmax.
Stored: N (2 d m + m + d) + 2 N L d + 4 N r d + 4 N (d + 1) for N layers, two gates a layer fewer in `ap`.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveInt

from graftlm.methods._gates import Pooling
from graftlm.methods._method import MethodConfig, needs, needs_table
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import HIDDEN, PrefixConfig
from graftlm.methods.union import joined
from graftlm.sites import Act, Sites

PAPER = "Mao et al. 2021"
KIND = "union"
MERGEABLE = False
LEARNING_RATE = 1e-3
TRAINS = "an adapter, a prefix and LoRA, each with a gate that the example opens"
STORES = "what its parts store, and d + 1 numbers a gate; the prefix's MLP is dropped"


class UnipeltConfig(MethodConfig):
    """`variant`: "apl", or "ap" without LoRA. `bottleneck`: a sixteenth of the width where none is given.

    `reparametrisation`: of the prefix, "mlp" of width `hidden`, dropped after training, or "none". `pooling`: a gate's
    mean is over the real tokens ("masked"), or over padding too ("padded"), as the reference code computes it, where
    answers depend on the batch.
    """

    variant: Literal["apl", "ap"] = "apl"
    bottleneck: PositiveInt | None = None
    length: PositiveInt = 10
    reparametrisation: Literal["mlp", "none"] = "mlp"
    hidden: PositiveInt = HIDDEN
    rank: PositiveInt = 8
    pooling: Pooling = "masked"


def kept(config: UnipeltConfig) -> UnipeltConfig:
    return config.model_copy(update={"reparametrisation": "none", "hidden": HIDDEN})


def acts(config: UnipeltConfig, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    needs(config, "hidden", "reparametrisation", "mlp")
    needs(config, "rank", "variant", "apl")
    parts: list[MethodConfig] = [
        AdapterConfig(variant="pfeiffer", bottleneck=config.bottleneck),
        PrefixConfig(
            length=config.length,
            reparametrisation=config.reparametrisation,
            hidden=config.hidden,
            position_shift=False,
        ),
    ]
    if config.variant == "apl":
        parts.append(LoraConfig(rank=config.rank, alpha=config.rank))
    return joined(parts, sites, gates=True, pooling=config.pooling)
