"""LoRA (Hu et al., 2021, arXiv:2106.09685): y' = y + scale · dropout(x) downᵀ upᵀ, scale = alpha / rank.

`down` (rank d_in) starts uniform in ±1/√d_in, `up` (d_out rank) at zero, so a fresh adapter changes nothing.
Stored: rank · (d_in + d_out) numbers a site. A role inside a fused layer gets a `down` and an `up` of its own.
On the word embedding, whose `down` is (rank vocabulary), `down` starts at zero and `up` normal, and nothing is dropped.
Beside it: rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732), DoRA (`_dora`), PiSSA (`_pissa`) and LoRA+ (Hayou et al.,
2024, arXiv:2402.12354).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.kernels import add_low_rank
from graftlm.methods import _dora, _pissa
from graftlm.methods._method import MethodConfig
from graftlm.methods._peft_lora import WORDS
from graftlm.sites import Act, Branch, Site, Sites, Tensors, View, kaiming_uniform, normal, zeros

PAPER = "Hu et al. 2021"
KIND = "branch"
MERGEABLE = True
LEARNING_RATE = 5e-4
TRAINS = "two low-rank factors at each chosen layer"
PEFT = WORDS
STORES = "r · (d_in + d_out) numbers a layer"


class LoraConfig(MethodConfig):
    """`sites`: roles, module names, a regex or "all-linear". The patterns override by role, site or module regex.

    `rslora`: scale is alpha / √rank. `dora`: a magnitude for each output is trained beside the direction. `init`:
    "gaussian" draws `down` with deviation 1 / rank; "pissa" starts from the weight's own first singular parts, found
    by `pissa_iterations` randomised steps where given (4 to 16 will do), else exactly. `plus`: LoRA+, the learning
    rate of `up` over that of `down` in linear layers; its paper recommends 16.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)
    sites: tuple[str, ...] | str = ("attention.query", "attention.value")
    rank_pattern: Mapping[str, PositiveInt] = {}
    alpha_pattern: Mapping[str, PositiveFloat] = {}
    rslora: bool = False
    dora: bool = False
    init: Literal["kaiming", "gaussian", "pissa"] = "kaiming"
    pissa_iterations: PositiveInt | None = None
    plus: PositiveFloat | None = None


def forward(view: View, p: Tensors) -> Tensor:
    return add_low_rank(view.y, view.dropout(view.x), p["down"], p["up"], p["scale"])


def merge(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    """W + scale · up down."""
    return weight + p["scale"] * (p["up"] @ p["down"]), bias


def forward_pissa(view: View, p: Tensors) -> Tensor:
    return forward(view, {**p, **_pissa.joined(p)})


def merge_pissa(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    return merge(weight, bias, {**p, **_pissa.joined(p)})


def forward_embedding(view: View, p: Tensors) -> Tensor:
    """y + scale · down[:, ids]ᵀ upᵀ, for ids (n rows 1) and down (n rank vocabulary)."""
    ids = view.x.mT.expand(-1, p["down"].shape[1], -1)  # n rank rows
    h = p["down"].gather(2, ids).mT  # n rows rank
    return view.y + torch.bmm(h, p["up"].mT) * p["scale"][:, None, None]


def acts(config: LoraConfig, sites: Sites) -> Sequence[Act]:
    _check(config, sites)
    found = sites.select(config.sites)
    for site in found:
        _check_site(config, site)
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        if not any(_matches(pattern, site) for site in found):
            raise UserError(
                f'pattern "{pattern}" matches none of the {len(found)} chosen sites (first: {found[0].module})'
            )
    if config.plus is not None and not any(site.kind == "linear" for site in found):
        raise UserError(f"plus = {config.plus:g} is for linear layers, and the chosen sites are embeddings only")
    return [_act(config, site, sites) for site in found]


def kept(config: LoraConfig) -> LoraConfig:
    """PiSSA's change from its start is a plain LoRA of twice the rank, at the same scale."""
    if config.init != "pissa":
        return config
    up = 2**0.5 if config.rslora else 2
    plain = {"init": "kaiming", "pissa_iterations": None, "rank": 2 * config.rank, "alpha": up * config.alpha}
    plain["rank_pattern"] = {pattern: 2 * rank for pattern, rank in config.rank_pattern.items()}
    plain["alpha_pattern"] = {pattern: up * alpha for pattern, alpha in config.alpha_pattern.items()}
    return config.model_copy(update=plain)


def _check(config: LoraConfig, sites: Sites) -> None:
    if config.dora and config.init == "pissa":
        raise UserError("dora = true and init = pissa do not go together: a run is stored as one or the other")
    if config.pissa_iterations is not None and config.init != "pissa":
        given = f"pissa_iterations = {config.pissa_iterations}"
        raise UserError(f"{given} means nothing with init = {config.init}; init = pissa uses it")
    words = (config.sites,) if isinstance(config.sites, str) else config.sites
    if sites.table is None and any(word.rsplit(".", 1)[-1] == "embedding" for word in words):
        raise UserError(f'"{sites.family}" has no table, so its embedding is not known; linear layers work')


def _check_site(config: LoraConfig, site: Site) -> None:
    if site.kind == "embedding" and site.role == "embedding":
        for option, wanted in (("dora = true", config.dora), ("init = pissa", config.init == "pissa")):
            if wanted:
                raise UserError(f"{option} is for linear layers; {site.module} is an embedding")
    elif site.kind != "linear":
        what = site.role if site.kind == "embedding" else site.kind
        raise UserError(f"lora acts on linear layers and the word embedding; {site.module} is of kind {what}")
    rank, _ = _rank_and_alpha(config, site)
    if config.init == "pissa" and rank > (most := min(site.d_in, site.d_out)):
        raise UserError(f"init = pissa with rank {rank}: {site.module} has {most} singular values; take at most {most}")


def _rank_and_alpha(config: LoraConfig, site: Site) -> tuple[int, float]:
    rank = next((value for pattern, value in config.rank_pattern.items() if _matches(pattern, site)), config.rank)
    alpha = next((value for pattern, value in config.alpha_pattern.items() if _matches(pattern, site)), config.alpha)
    return rank, alpha


def _act(config: LoraConfig, site: Site, sites: Sites) -> Branch:
    plain = _branch(config, site)
    if config.dora:
        params = {**plain.params, "magnitude": _dora.magnitude(sites.weight(site), site.d_out)}
        return replace(plain, params=params, forward=_dora.forward, merge=_dora.merge, wide=True)
    if config.init == "pissa":
        rank, scale = plain.params["down"].shape[0], plain.constants["scale"]
        params = _pissa.params(site, sites.weight(site), rank, scale, config.pissa_iterations)
        return replace(plain, params=params, forward=forward_pissa, merge=merge_pissa, keep=_pissa.joined)
    return plain


def _branch(config: LoraConfig, site: Site) -> Branch:
    rank, alpha = _rank_and_alpha(config, site)
    scale = alpha / (rank**0.5 if config.rslora else rank)
    if site.kind == "embedding":
        params = {"down": zeros(rank, site.d_in), "up": normal(site.d_out, rank, std=1.0)}
        return Branch(site, params, forward_embedding, {"scale": scale}, merge=merge)
    down = normal(rank, site.d_in, std=1 / rank) if config.init == "gaussian" else kaiming_uniform(rank, site.d_in)
    params = {"down": down, "up": zeros(site.d_out, rank)}
    rates = {} if config.plus is None else {"up": config.plus}
    return Branch(site, params, forward, {"scale": scale}, dropout=config.dropout, merge=merge, rates=rates)


def _matches(pattern: str, site: Site) -> bool:
    """By role, by our site name, or as PEFT does: a regex for a module's path or the end of it."""
    return pattern in (site.role, site.name) or re.fullmatch(rf"(.*\.)?({pattern})", site.module) is not None
