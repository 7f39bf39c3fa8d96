"""P-Tuning v2 (Liu et al., 2021, arXiv:2110.07602): deep prefixes for understanding, trained directly.

Attn(q, [P_k; K], [P_v; V]) in every layer, as in Prefix-Tuning, with the paper's code's choices: P (L, 2 N d) itself
is trained, from N(0, 0.02), with dropout on it; by option P = tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂, E (L d), from N(0, 0.02) and
zero biases, and P alone is stored. Real tokens start at position L unless `position_shift` is off.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from graftlm.methods._method import MethodConfig, needs, needs_table
from graftlm.methods._peft_prompts import PREFIX_WORDS
from graftlm.methods._prefixes import deep
from graftlm.sites import Act, Sites

PAPER = "Liu et al. 2021b"
KIND = "past"
MERGEABLE = False
LEARNING_RATE = 1e-2
TRAINS = "keys and values in front of the text in every layer, directly"
PEFT = PREFIX_WORDS
STORES = "the keys and values"
STD = 0.02
HIDDEN = 512


class PtuningV2Config(MethodConfig):
    """`reparametrisation`: "none", or an "mlp" of width `hidden`, dropped after training."""

    length: PositiveInt = 20
    reparametrisation: Literal["none", "mlp"] = "none"
    hidden: PositiveInt = HIDDEN
    position_shift: bool = True
    dropout: NonNegativeFloat = Field(0.1, lt=1)


def kept(config: PtuningV2Config) -> PtuningV2Config:
    return config.model_copy(update={"reparametrisation": "none", "hidden": HIDDEN})


def acts(config: PtuningV2Config, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    needs(config, "hidden", "reparametrisation", "mlp")
    return deep(
        sites,
        length=config.length,
        reparametrisation=config.reparametrisation,
        hidden=config.hidden,
        std=STD,
        position_shift=config.position_shift,
        dropout=config.dropout,
    )
