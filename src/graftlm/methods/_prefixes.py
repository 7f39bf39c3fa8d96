"""What methods with prefixes share: the MLP that makes one, its two forms, and starts from given words."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from graftlm.core.errors import UserError
from graftlm.sites import Attention, Param, Past, Sites, Tensors, kaiming_uniform, normal, recorded, uniform, zeros

STEPS, RATE = 500, 1e-4  # of Adam, as Li & Liang regress an MLP onto activations


def through_mlp(p: Tensors) -> Tensor:
    """embedding (n L d), W₁ (n k d), W₂ (n 2Nd k) -> (n L 2Nd)."""
    inside = torch.tanh(torch.baddbmm(p["in_bias"][:, None], p["embedding"], p["in_weight"].mT))  # n L k
    return torch.baddbmm(p["out_bias"][:, None], inside, p["out_weight"].mT)


def as_it_is(p: Tensors) -> Tensor:
    return p["values"]


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


def shape_of(attentions: list[Attention], length: int) -> tuple[int, int]:
    """(L, 2Nd) of a prefix for some attentions; d is the width of their keys."""
    return length, 2 * len(attentions) * attentions[0].heads * attentions[0].head_width


def past(
    sites: Sites,
    part: str,
    params: Mapping[str, Param],
    *,
    length: int,
    position_shift: bool,
    dropout: float,
) -> Past:
    """A prefix at every attention of a part, made as its tensors say; cross attention has no positions to move."""
    moves = position_shift and part != "cross" and sites.positions is not None
    return Past(
        params=params,
        derive=as_it_is if "values" in params else through_mlp,
        length=length,
        attentions=sites.attentions(part),
        position_shift=length if moves else 0,
        dropout=dropout,
    )


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
