"""Adapters: a bottleneck with a nonlinearity. Houlsby et al. (2019, arXiv:1902.00751): h + up · gelu(down · h) after
the attention and the feed-forward output, before residual and norm, with every LayerNorm trained. Pfeiffer et al.
(2020, arXiv:2005.00247): o + up · relu(down · a), a = norm(o + residual), after the feed-forward only. Parallel
(He et al., 2021, arXiv:2110.04366): o + scale · up · relu(down · x), x what goes into the feed-forward.

Stored: 2 d m + d + m numbers a bottleneck of width m. In a pre-norm model Pfeiffer's a is o + residual itself.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from graftlm.methods._deltas import norm_delta
from graftlm.methods._method import MethodConfig, needs_table
from graftlm.sites import (
    Act,
    Branch,
    Param,
    Site,
    Sites,
    Tensors,
    View,
    kaiming_uniform,
    normal,
    truncated_normal,
    zeros,
)

PAPER = "Houlsby 2019, Pfeiffer 2020, He 2021"
KIND = "branch"
MERGEABLE = False
LEARNING_RATE = 1e-3
TRAINS = "a bottleneck after or beside each feed-forward, and attention in Houlsby's form"
STORES = "2 d m + d + m numbers a bottleneck of width m; houlsby also 2 d a norm"

Variant = Literal["houlsby", "pfeiffer", "parallel"]
Activation = Literal["relu", "gelu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}


class AdapterConfig(MethodConfig):
    """Defaults that depend on the variant (houlsby / pfeiffer / parallel) are None here.

    `bottleneck`: 64 / a sixteenth of the width / 16. `activation`: gelu / relu / relu. `layer_norms`: trained in
    houlsby only. `scale`: 1 / 1 / 2. `dropout` acts inside the bottleneck.
    """

    variant: Variant = "pfeiffer"
    bottleneck: PositiveInt | None = None
    activation: Activation | None = None
    layer_norms: bool | None = None
    scale: PositiveFloat | None = None
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)


def bottleneck(view: View, h: Tensor, p: Tensors, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """scale · (up · f(down · h + b) + b'): h (n rows d), down (n m d), up (n d m) -> (n rows d)."""
    inside = activation(torch.baddbmm(p["down_bias"][:, None], h, p["down"].mT))  # n rows m
    out = torch.baddbmm(p["up_bias"][:, None], view.dropout(inside), p["up"].mT)  # n rows d
    return out * p["scale"][:, None, None]


def _output(view: View) -> Tensor:
    return view.y


def _normalised(view: View) -> Tensor:
    return view.norm(view.y + view.residual)


def _entry(view: View) -> Tensor:
    return view.x


INPUTS: dict[str, Callable[[View], Tensor]] = {"houlsby": _output, "pfeiffer": _normalised, "parallel": _entry}


@cache
def forward(variant: Variant, activation: Activation) -> Callable[[View, Tensors], Tensor]:
    """The same function for the same words, so that runs share a bank."""
    read, f = INPUTS[variant], ACTIVATIONS[activation]

    def through(view: View, p: Tensors) -> Tensor:
        return view.y + bottleneck(view, read(view), p, f)

    return through


def acts(config: AdapterConfig, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    variant = config.variant
    roles = ("span.attention", "span.feedforward") if variant == "houlsby" else ("span.feedforward",)
    found: list[Act] = [_branch(config, site) for site in sites.with_roles(roles)]
    if config.layer_norms if config.layer_norms is not None else variant == "houlsby":
        found += [norm_delta(site) for site in sites.norms()]
    return found


def _branch(config: AdapterConfig, site: Site) -> Branch:
    variant = config.variant
    width = config.bottleneck or {"houlsby": 64, "pfeiffer": max(1, site.d_out // 16), "parallel": 16}[variant]
    activation: Activation = config.activation or ("gelu" if variant == "houlsby" else "relu")
    scale = config.scale or (2.0 if variant == "parallel" else 1.0)
    params = _params(variant, site.d_out, width)
    return Branch(
        site,
        params,
        forward(variant, activation),
        {"scale": scale},
        dropout=config.dropout,
        gate_input=INPUTS[variant],
    )


def _params(variant: Variant, d: int, m: int) -> dict[str, Param]:
    if variant == "houlsby":
        down, up = truncated_normal(m, d, std=1e-3), truncated_normal(d, m, std=1e-3)
    elif variant == "pfeiffer":
        down, up = normal(m, d, std=0.02), normal(d, m, std=0.02)
    else:
        down, up = kaiming_uniform(m, d), zeros(d, m)
    return {"down": down, "down_bias": zeros(m), "up": up, "up_bias": zeros(d)}
