"""Instance-dependent prompts (IDPG; Wu et al., 2022, arXiv:2204.04497): a text's own virtual tokens, made from it.

P(x) = tanh(mean(x) W₁ᵀ + b₁) W₂ᵀ + b₂ seen as (L d), where mean(x) is the mean of the text's word embeddings: no
padding, no virtual tokens. It trains and stores m d + m + L d m + L d numbers for a bottleneck of m. The paper's
sentence representation comes from the frozen model or from GloVe vectors, of which the mean of the model's own word
embeddings is the cheap kin. Nothing is dropped after training: a prompt exists only once there is a text.

A causal model that generates would need its prompt anew for each longer text, so there a cache is refused by name;
an encoder reads its whole text at once, so an encoder-decoder generates with a cache as without.
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from graftlm.methods._method import MethodConfig
from graftlm.methods._prompts import shift_of
from graftlm.sites import Act, Sites, Tensors, Tokens, kaiming_uniform

PAPER = "Wu et al. 2022"
KIND = "tokens"
MERGEABLE = False
LEARNING_RATE = 1e-3
TRAINS = "a bottleneck that makes virtual tokens from the text behind them"
STORES = "the bottleneck"

WHOLE_TEXT = "makes its prompt from"


class InstancePromptConfig(MethodConfig):
    """`bottleneck`: m. Both layers start as torch starts linear layers, U(±1/√fan_in)."""

    length: PositiveInt = 5
    bottleneck: PositiveInt = 256
    position_shift: bool = True


def through_bottleneck(mean: Tensor, p: Tensors) -> Tensor:
    """mean (n rows d), W₁ (n m d), W₂ (n L·d m) -> (n rows L·d)."""
    inside = torch.tanh(torch.baddbmm(p["down_bias"][:, None], mean, p["down"].mT))  # n rows m
    return torch.baddbmm(p["up_bias"][:, None], inside, p["up"].mT)


def no_table(p: Tensors) -> Tensor:
    raise AssertionError("a prompt that is made from a text has no table of its own")


def acts(config: InstancePromptConfig, sites: Sites) -> Sequence[Act]:
    d, m = int(sites.embedding().weight.shape[1]), config.bottleneck
    out = config.length * d
    params = {
        "down": kaiming_uniform(m, d),
        "down_bias": kaiming_uniform(m, fan_in=d),
        "up": kaiming_uniform(out, m),
        "up_bias": kaiming_uniform(out, fan_in=m),
    }
    shift = shift_of(config.position_shift, config.length, sites)
    stream = "encoder" if sites.encoder_decoder else ""
    return [
        Tokens(
            params,
            no_table,
            config.length,
            shift,
            from_input=through_bottleneck,
            stream=stream,
            whole_text=WHOLE_TEXT,
        )
    ]
