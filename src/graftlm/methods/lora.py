"""LoRA (Hu et al., 2021, arXiv:2106.09685): y' = y + (alpha / rank) · dropout(x) downᵀ upᵀ.

`down` (rank d_in) starts uniform in ±1/√d_in, `up` (d_out rank) at zero, so a fresh adapter changes nothing.
Stored: rank · (d_in + d_out) numbers a site. A role inside a fused layer gets a `down` and an `up` of its own.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig
from graftlm.methods._peft_lora import WORDS
from graftlm.sites import Act, Branch, Site, Sites, Tensors, View, kaiming_uniform, zeros

PAPER = "Hu et al. 2021"
KIND = "branch"
MERGEABLE = True
LEARNING_RATE = 5e-4
TRAINS = "two low-rank factors at each chosen layer"
PEFT = WORDS


class LoraConfig(MethodConfig):
    """`sites`: roles, module names, a regex or "all-linear". The patterns override by role, site or module regex."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: NonNegativeFloat = Field(0.0, lt=1)
    sites: tuple[str, ...] | str = ("attention.query", "attention.value")
    rank_pattern: Mapping[str, PositiveInt] = {}
    alpha_pattern: Mapping[str, PositiveFloat] = {}


def low_rank(x: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """x (n rows d_in), down (n rank d_in), up (n d_out rank), scale (n) -> (n rows d_out)."""
    h = torch.bmm(x, down.mT)  # n rows rank
    return torch.bmm(h, up.mT) * scale[:, None, None]


def forward(view: View, p: Tensors) -> Tensor:
    return view.y + low_rank(view.dropout(view.x), p["down"], p["up"], p["scale"])


def merge(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    """W + scale · up down."""
    return weight + p["scale"] * (p["up"] @ p["down"]), bias


def acts(config: LoraConfig, sites: Sites) -> Sequence[Act]:
    found = sites.select(config.sites)
    for site in found:
        if site.kind != "linear":
            raise UserError(f"lora acts on linear layers; {site.module} is of kind {site.kind}")
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        if not any(_matches(pattern, site) for site in found):
            raise UserError(
                f'pattern "{pattern}" matches none of the {len(found)} chosen sites (first: {found[0].module})'
            )
    return [_branch(config, site) for site in found]


def _branch(config: LoraConfig, site: Site) -> Branch:
    rank = next((value for pattern, value in config.rank_pattern.items() if _matches(pattern, site)), config.rank)
    alpha = next((value for pattern, value in config.alpha_pattern.items() if _matches(pattern, site)), config.alpha)
    params = {"down": kaiming_uniform(rank, site.d_in), "up": zeros(site.d_out, rank)}
    return Branch(site, params, forward, {"scale": alpha / rank}, dropout=config.dropout, merge=merge)


def _matches(pattern: str, site: Site) -> bool:
    """By role, by our site name, or as PEFT does: a regex for a module's path or the end of it."""
    return pattern in (site.role, site.name) or re.fullmatch(rf"(.*\.)?({pattern})", site.module) is not None
