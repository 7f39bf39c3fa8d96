"""Prefix-Tuning (Li & Liang, 2021, ACL): L learned keys and values in front of the text's in every layer.

Attn(q, [P_k; K], [P_v; V]). While training P = tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂, E (L d); afterwards P (L, 2 N d) alone is
stored. Without the MLP P is trained directly. Real tokens start at position L unless `position_shift` is off.
Under grouped-query attention d is the width of the keys. In an encoder-decoder the encoder, the decoder and cross
attention have a prefix each.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from graftlm.methods._method import MethodConfig, needs, needs_table
from graftlm.methods._peft_prompts import PREFIX_WORDS
from graftlm.methods._prefixes import deep, ids_of
from graftlm.sites import Act, Sites

PAPER = "Li & Liang 2021"
KIND = "past"
MERGEABLE = False
LEARNING_RATE = 1e-3  # an MLP's every weight moves by it, so that a higher one throws the prefixes far off
TRAINS = "keys and values in front of the text in every layer"
PEFT = PREFIX_WORDS
STORES = "2 · N · L · d numbers for N layers; the MLP is dropped"
HIDDEN = 512


class PrefixConfig(MethodConfig):
    """`reparametrisation`: "mlp" of width `hidden`, dropped after training, or "none".

    `init`: "uniform" is U(0, 1), or torch's own for an MLP; "text" starts from the keys and values of the words of
    `text`, its first `length` pieces, said again from the start where it is shorter (both stacks of an
    encoder-decoder read them). An MLP is regressed onto them.
    """

    length: PositiveInt = 10
    reparametrisation: Literal["mlp", "none"] = "mlp"
    hidden: PositiveInt = HIDDEN
    init: Literal["uniform", "text"] = "uniform"
    text: str = ""
    position_shift: bool = True
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)


def learning_rate(config: PrefixConfig) -> float:
    return LEARNING_RATE if config.reparametrisation == "mlp" else 1e-2


def kept(config: PrefixConfig) -> PrefixConfig:
    return config.model_copy(update={"reparametrisation": "none", "hidden": HIDDEN, "init": "uniform", "text": ""})


def acts(config: PrefixConfig, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    needs(config, "text", "init", "text")
    needs(config, "hidden", "reparametrisation", "mlp")
    ids = ids_of(config.text, sites, config.length) if config.init == "text" else None
    return deep(
        sites,
        length=config.length,
        reparametrisation=config.reparametrisation,
        hidden=config.hidden,
        std=None,
        position_shift=config.position_shift,
        dropout=config.dropout,
        words=ids,
    )
