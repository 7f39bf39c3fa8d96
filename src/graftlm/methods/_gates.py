"""Gates (Mao et al., 2021): how much of a part is added, a number an example and place.

g = mean over tokens of σ(w · h_t + b), h what the part reads. The reference takes the mean over padding too, so that
its answers depend on the batch; the mean over real tokens is meant, and the default. A gate sees the whole text, so a
decoder that generates cannot keep a cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.sites import Act, Branch, Past, Select, Site, Sites, Tensors, View, normal, zeros

Pooling = Literal["masked", "padded"]
Maths = Callable[[View, Tensors], Tensor]
WHOLE_TEXT = "gates its parts by"
STD = 0.02


def tensors_of(name: str) -> tuple[str, str]:
    """What the gate of the part `name` calls its weight (d) and its bias (1); a prefix has one of each a layer."""
    return f"{name}-gate-weight", f"{name}-gate-bias"


def gated(act: Act, name: str, pooling: Pooling, sites: Sites) -> Act:
    """The act of the part `name` with a gate of its own."""
    weight, bias = tensors_of(name)
    if isinstance(act, Branch):
        site = act.site
        params = {**act.params, weight: replace(normal(_width(site), std=STD), decays=True), bias: zeros(1)}
        read = act.gate_input or (_output if site.kind == "embedding" else _input)
        return replace(
            act,
            params=params,
            forward=_branch(act.forward, read, name, pooling == "padded"),
            keep=None if act.keep is None else _keeping(act.keep, (weight, bias)),
            merge=None,
            whole_text=WHOLE_TEXT,
            wide=True,
        )
    if isinstance(act, Past):
        layers, width = len(act.attentions), sites.query(act.attentions[0]).d_in
        params = {weight: normal(layers, width, std=STD), bias: zeros(layers)}
        return replace(
            act,
            params={**act.params, **params},
            gate=_past(name, pooling == "padded"),
            stored=(weight, bias),
            whole_text=WHOLE_TEXT,
        )
    what = "weights of the base's own" if isinstance(act, Select) else "virtual tokens"
    raise UserError(f"gates = true, but {name} has {what}, which nothing can scale; take it out or set gates = false")


def _width(site: Site) -> int:
    return site.d_out if site.kind in ("span", "embedding") else site.d_in


def _input(view: View) -> Tensor:
    return view.x


def _output(view: View) -> Tensor:
    return view.y


def gate(view: View, h: Tensor, weight: Tensor, bias: Tensor, padded: bool) -> Tensor:
    """h (n r d), weight (n d), bias (n 1) -> (n b 1), for n runs with b examples of r tokens in all."""
    scores = torch.baddbmm(bias[:, None], h, weight[..., None])  # n r 1
    return view.mean(torch.sigmoid(scores), padded)


@cache
def _branch(forward: Maths, read: Callable[[View], Tensor], name: str, padded: bool) -> Maths:
    """y + g · (forward's y − y); the same function for the same words, so that runs share a bank."""
    weight, bias = tensors_of(name)

    def through(view: View, p: Tensors) -> Tensor:
        g = gate(view, read(view), p[weight], p[bias], padded)
        view.note(name, g)
        return view.y + view.over_tokens(g) * (forward(view, p) - view.y)

    return through


@cache
def _past(name: str, padded: bool) -> Callable[[View, Tensors, int], Tensor]:
    """Keys and values alike are scaled."""
    weight, bias = tensors_of(name)

    def through(view: View, p: Tensors, layer: int) -> Tensor:
        g = gate(view, view.x, p[weight][:, layer], p[bias][:, layer, None], padded)
        view.note(name, g)
        return g

    return through


def _keeping(keep: Callable[[Tensors], Tensors], names: Sequence[str]) -> Callable[[Tensors], Tensors]:
    return lambda own: {**keep(own), **{name: own[name] for name in names}}
