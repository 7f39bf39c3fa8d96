"""P-Tuning (Liu et al., 2021, arXiv:2103.10385): virtual tokens that a small network makes from embeddings.

P = MLP(BiLSTM(E)), E (L d): two bidirectional LSTM layers of width h a direction, then 2h → d, ReLU, d → d. With
h = d / 2, the default, it is the form of the paper's LAMA runs, with h = d that of its few-shot runs. `encoder` =
"mlp" is d → h, ReLU, h → d, h being d by default. The virtual tokens stand in front of the text, not inside a
template. The network is dropped after training, and P (L d) is stored.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig, needs
from graftlm.methods._peft_prompts import PTUNING_WORDS
from graftlm.methods._prompts import shift_of
from graftlm.methods._reparametrised import as_it_is
from graftlm.sites import Act, Param, Sites, Tensors, Tokens, kaiming_uniform, normal

PAPER = "Liu et al. 2021a"
KIND = "tokens"
MERGEABLE = False
LEARNING_RATE = 5e-3
TRAINS = "virtual tokens in front of the text, through a BiLSTM or an MLP"
PEFT = PTUNING_WORDS
STORES = "the virtual tokens"


class PtuningConfig(MethodConfig):
    """`encoder`: "lstm", "mlp", or "none", which is the stored form. `hidden`: h, by default d / 2 or d."""

    length: PositiveInt = 9
    encoder: Literal["lstm", "mlp", "none"] = "lstm"
    hidden: PositiveInt | None = None
    position_shift: bool = True


def through_relu(p: Tensors) -> Tensor:
    """embedding (n L d), W₁ (n h d), W₂ (n d h) -> (n L d)."""
    inside = torch.relu(torch.baddbmm(p["in_bias"][:, None], p["embedding"], p["in_weight"].mT))  # n L h
    return torch.baddbmm(p["out_bias"][:, None], inside, p["out_weight"].mT)


def through_lstm(p: Tensors) -> Tensor:
    """embedding (n L d) -> (n L d), by way of `lstm_layer` twice, W₁ (n d 2h) and W₂ (n d d)."""
    x = lstm_layer(p["embedding"], p, "0")
    x = lstm_layer(x, p, "1")  # n L 2h
    return through_relu({**p, "embedding": x, "in_weight": p["in_weight"].flatten(2)})


def lstm_layer(x: Tensor, p: Tensors, layer: str) -> Tensor:
    """One bidirectional LSTM layer, x (n L w) -> (n L 2h), the forward direction's h first.

    Input weights (n 2 4 h w), or (n 2 4 h 2 h) above the first layer; recurrent ones (n 2 4 h h); biases (n 2 4 h).
    Directions and gates (input, forget, cell, output) have axes of their own, so that runs of a smaller h are
    padded where they end: a padded unit's cell is σ(0) · 0 + σ(0) · tanh(0) = 0 at every step.
    """
    n, length, _ = x.shape
    weight = p[f"input_{layer}"].flatten(4).flatten(0, 1).flatten(1, 2)  # 2n 4h w
    again = p[f"recurrent_{layer}"].flatten(0, 1).flatten(1, 2)  # 2n 4h h
    bias = (p[f"input_bias_{layer}"] + p[f"recurrent_bias_{layer}"]).flatten(0, 1).flatten(1)  # 2n 4h
    both = torch.stack((x, x.flip(1)), dim=1).flatten(0, 1)  # 2n L w, the backward direction's from the end
    given = torch.baddbmm(bias[:, None], both, weight.mT)  # 2n L 4h
    hidden = cell = torch.zeros_like(given[:, :1, : again.shape[2]])  # 2n 1 h
    steps: list[Tensor] = []
    for step in range(length):
        gates = torch.baddbmm(given[:, step : step + 1], hidden, again.mT)
        inward, forget, new, outward = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(inward) * torch.tanh(new)
        hidden = torch.sigmoid(outward) * torch.tanh(cell)
        steps.append(hidden)
    forward, backward = torch.cat(steps, dim=1).unflatten(0, (n, 2)).unbind(1)  # n L h each
    return torch.cat((forward, backward.flip(1)), dim=-1)


def kept(config: PtuningConfig) -> PtuningConfig:
    return config.model_copy(update={"encoder": "none", "hidden": None})


def acts(config: PtuningConfig, sites: Sites) -> Sequence[Act]:
    needs(config, "hidden", "encoder", "lstm", "mlp")
    shift = shift_of(config.position_shift, config.length, sites)
    d = int(sites.embedding().weight.shape[1])
    if config.encoder == "none":
        return [Tokens({"values": normal(config.length, d, std=1)}, as_it_is, config.length, shift)]
    params = {"embedding": normal(config.length, d, std=1)}
    if config.encoder == "mlp":
        return [Tokens(params | _mlp(config.hidden or d, d), through_relu, config.length, shift)]
    if config.hidden is None and d % 2:
        raise UserError(f'"{sites.family}" has words of the odd width {d}, of which d / 2 is none; give method.hidden')
    h = config.hidden or d // 2
    params |= _lstm(h, d)
    # the backward direction starts at the last token, so a shorter prompt cannot be padded
    return [Tokens(params, through_lstm, config.length, shift, alike=(config.length,))]


def _lstm(h: int, d: int) -> dict[str, Param]:
    """Two layers of 2 (4h (w + h) + 8h) numbers, w being d and then 2h; U(±1/√h) as torch starts an LSTM."""
    params: dict[str, Param] = {}
    for layer, width in (("0", (d,)), ("1", (2, h))):
        params[f"input_{layer}"] = kaiming_uniform(2, 4, h, *width, fan_in=h)
        params[f"recurrent_{layer}"] = kaiming_uniform(2, 4, h, h, fan_in=h)
        params[f"input_bias_{layer}"] = kaiming_uniform(2, 4, h, fan_in=h)
        params[f"recurrent_bias_{layer}"] = kaiming_uniform(2, 4, h, fan_in=h)
    wide = kaiming_uniform(d, 2, h, fan_in=2 * h)
    return params | {**_mlp(d, d), "in_weight": wide, "in_bias": kaiming_uniform(d, fan_in=2 * h)}


def _mlp(h: int, d: int) -> dict[str, Param]:
    return {
        "in_weight": kaiming_uniform(h, d),
        "in_bias": kaiming_uniform(h, fan_in=d),
        "out_weight": kaiming_uniform(d, h),
        "out_bias": kaiming_uniform(d, fan_in=h),
    }
