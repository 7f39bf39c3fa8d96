"""Prefix-Tuning (Li & Liang, 2021, ACL): L learned keys and values in front of the text's in every layer.

Attn(q, [P_k; K], [P_v; V]). While training P = tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂, E (L d); afterwards P (L, 2 N d) alone is
stored. Without the MLP P is trained directly. Real tokens start at position L unless `position_shift` is off.
Under grouped-query attention d is the width of the keys.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from graftlm.methods._method import MethodConfig, needs_table
from graftlm.methods._peft_prompts import PREFIX_WORDS
from graftlm.sites import Act, Past, Sites, Tensors, kaiming_uniform, normal, uniform

PAPER = "Li & Liang 2021"
KIND = "past"
MERGEABLE = False
LEARNING_RATE = 5e-3
TRAINS = "keys and values in front of the text in every layer"
PEFT = PREFIX_WORDS


class PrefixConfig(MethodConfig):
    """`reparametrisation`: "mlp" of width `hidden`, dropped after training, or "none"."""

    length: PositiveInt = 10
    reparametrisation: Literal["mlp", "none"] = "mlp"
    hidden: PositiveInt = 512
    position_shift: bool = True
    dropout: NonNegativeFloat = Field(0.0, lt=1)


def through_mlp(p: Tensors) -> Tensor:
    """embedding (n L d), W₁ (n k d), W₂ (n 2Nd k) -> (n L 2Nd)."""
    inside = torch.tanh(torch.baddbmm(p["in_bias"][:, None], p["embedding"], p["in_weight"].mT))  # n L k
    return torch.baddbmm(p["out_bias"][:, None], inside, p["out_weight"].mT)


def as_it_is(p: Tensors) -> Tensor:
    return p["values"]


def kept(config: PrefixConfig) -> PrefixConfig:
    return config.model_copy(update={"reparametrisation": "none"})


def acts(config: PrefixConfig, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    return [_past(config, sites, part) for part in sites.parts]


def _past(config: PrefixConfig, sites: Sites, part: str) -> Past:
    attentions = sites.attentions(part)
    d = attentions[0].heads * attentions[0].head_width
    out = 2 * len(attentions) * d
    if config.reparametrisation == "none":
        params = {"values": uniform(config.length, out, low=0, high=1)}
    else:
        k = config.hidden
        params = {
            "embedding": normal(config.length, d, std=1),
            "in_weight": kaiming_uniform(k, d),
            "in_bias": kaiming_uniform(k, fan_in=d),
            "out_weight": kaiming_uniform(out, k),
            "out_bias": kaiming_uniform(out, fan_in=k),
        }
    moves = config.position_shift and part != "cross" and sites.positions is not None
    return Past(
        params=params,
        derive=as_it_is if config.reparametrisation == "none" else through_mlp,
        length=config.length,
        attentions=attentions,
        position_shift=config.length if moves else 0,
        dropout=config.dropout,
    )
