"""What methods with prefixes share: the two forms of one, and starts from given words."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from graftlm.core.errors import UserError
from graftlm.methods._reparametrised import as_it_is, through_mlp
from graftlm.sites import Act, Param, Past, Sites, kaiming_uniform, normal, recorded, uniform, zeros

STEPS, RATE = 500, 1e-4  # of Adam, as Li & Liang regress an MLP onto activations


def direct(shape: tuple[int, int], *, std: float | None) -> dict[str, Param]:
    """A prefix of a shape (L 2Nd) that is trained itself, from N(0, std), or from U(0, 1) without one."""
    return {"values": uniform(*shape, low=0, high=1) if std is None else normal(*shape, std=std)}


def mlp(shape: tuple[int, int], d: int, k: int, *, std: float | None) -> dict[str, Param]:
    """A prefix of a shape (L 2Nd) from L embeddings of width d and an MLP of width k.

    It starts from N(0, std) with zero biases, or without `std` as torch starts an embedding and linear layers.
    """
    length, out = shape
    if std is not None:
        return {
            "embedding": normal(length, d, std=std),
            "in_weight": normal(k, d, std=std),
            "in_bias": zeros(k),
            "out_weight": normal(out, k, std=std),
            "out_bias": zeros(out),
        }
    return {
        "embedding": normal(length, d, std=1),
        "in_weight": kaiming_uniform(k, d),
        "in_bias": kaiming_uniform(k, fan_in=d),
        "out_weight": kaiming_uniform(out, k),
        "out_bias": kaiming_uniform(out, fan_in=k),
    }


def deep(
    sites: Sites,
    *,
    length: int,
    reparametrisation: Literal["mlp", "none"],
    hidden: int,
    std: float | None,
    position_shift: bool,
    dropout: float,
    words: list[int] | None = None,
) -> list[Act]:
    """A prefix for each part of the model, at every attention of it; cross attention has no positions to move.

    `std` is that of the initial values, as in `direct` and `mlp`; `words` are ids to start from instead.
    """
    found: list[Act] = []
    for part in sites.parts:
        attentions = sites.attentions(part)
        d = attentions[0].heads * attentions[0].head_width
        shape = length, 2 * len(attentions) * d
        params = direct(shape, std=std) if reparametrisation == "none" else mlp(shape, d, hidden, std=std)
        if words is not None:
            params = from_words(params, sites, part, words)
        moves = position_shift and part != "cross" and sites.positions is not None
        derive = as_it_is if reparametrisation == "none" else through_mlp
        found.append(Past(params, derive, length, attentions, length if moves else 0, dropout))
    return found


def ids_of(text: str, sites: Sites, length: int) -> list[int]:
    """The first `length` pieces of a text, without special tokens; a shorter text is said again from its start."""
    if sites.tokenizer is None:
        raise UserError("init = text needs a tokenizer")
    pieces: list[int] = sites.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not pieces:
        raise UserError("init = text needs method.text, the words to start from")
    if sites.positions is not None and length > sites.positions:
        raise UserError(f'init = text runs {length} words, but "{sites.family}" has {sites.positions} positions')
    return [pieces[place % len(pieces)] for place in range(length)]


def from_words(params: Mapping[str, Param], sites: Sites, part: str, ids: list[int]) -> dict[str, Param]:
    """The same tensors, started from the keys and values that the frozen model gives some words.

    A prefix that is trained itself starts at them; the tensors of an MLP are regressed onto them.
    """
    if "values" in params:
        return {"values": Param(params["values"].shape, lambda _: recorded(sites, part, ids).cpu())}
    found: dict[str, Tensor] = {}

    def first(generator: Generator) -> Tensor:  # a bank asks for the tensors in their order
        found.update(regressed(params, recorded(sites, part, ids), generator))
        return found.pop("embedding")

    def later(name: str) -> Callable[[Generator], Any]:
        return lambda _: found.pop(name)

    return {name: Param(param.shape, first if name == "embedding" else later(name)) for name, param in params.items()}


def regressed(params: Mapping[str, Param], target: Tensor, generator: Generator) -> dict[str, Tensor]:
    """An MLP's tensors after 500 Adam steps (lr 1e-4) on the mean squared error of its output from target (L 2Nd)."""
    wide = target.float() if target.dtype in (torch.float16, torch.bfloat16) else target
    with torch.inference_mode(False), torch.enable_grad():
        own = {name: param.init(generator).to(wide)[None].requires_grad_() for name, param in params.items()}
        optimizer = torch.optim.Adam(own.values(), lr=RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.mse_loss(through_mlp(own)[0], wide).backward()
            optimizer.step()
    return {name: value.detach()[0].cpu() for name, value in own.items()}
