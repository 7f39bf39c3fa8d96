"""MAM, the mix-and-match adapter (He et al., 2021, arXiv:2110.04366): a short prefix at every attention and a wide
parallel adapter at every feed-forward.

Attn(q, [P_k; K], [P_v; V]) and o + scale · up · relu(down · x), x what goes into the feed-forward. Real tokens start at
position 0. Defaults are those of GLUE; on XSum the paper takes length 30, bottleneck 512 and scale 4.
Stored: 2 L d numbers an attention and 2 d m + d + m a feed-forward.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from graftlm.methods._method import MethodConfig, needs, needs_table
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prefix import kept as stored
from graftlm.methods.union import joined
from graftlm.sites import Act, Sites

PAPER = "He et al. 2021"
KIND = "union"
MERGEABLE = False
LEARNING_RATE = 1e-3
TRAINS = "a prefix, and a parallel adapter beside each feed-forward"
STORES = "2 L d numbers an attention, 2 d m + d + m a feed-forward; the prefix's MLP is dropped"
HIDDEN = 800


class MamConfig(MethodConfig):
    """`length` and `hidden` are the prefix's, `bottleneck` and `scale` the adapter's.

    `reparametrisation`: "mlp" of width `hidden`, dropped after training, or "none". `dropout` acts on the prefix and
    inside the bottleneck.
    """

    length: PositiveInt = 16
    reparametrisation: Literal["mlp", "none"] = "mlp"
    hidden: PositiveInt = HIDDEN
    bottleneck: PositiveInt = 16
    scale: PositiveFloat = 2.0
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)
    position_shift: bool = False


def kept(config: MamConfig) -> MamConfig:
    return config.model_copy(update={"reparametrisation": "none", "hidden": HIDDEN})


def acts(config: MamConfig, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    needs(config, "hidden", "reparametrisation", "mlp")
    prefix = PrefixConfig(
        length=config.length,
        hidden=config.hidden,
        dropout=config.dropout,
        position_shift=config.position_shift,
    )
    adapter = AdapterConfig(
        variant="parallel", bottleneck=config.bottleneck, scale=config.scale, dropout=config.dropout
    )
    if config.reparametrisation == "none":
        prefix = stored(prefix)
    return joined([prefix, adapter], sites, gates=False, pooling="masked")
