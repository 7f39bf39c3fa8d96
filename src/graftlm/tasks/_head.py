"""The head formulation: a text's states pooled by the mask, or single tokens'; then layers of each run's own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.core.settings import HeadConfig
from graftlm.sites import Attached, Bank, Head, Param, normal, ones, zeros
from graftlm.sites import keyed_dropout as dropped

Pool = Literal["first", "last", "mean"]
PLACE = "head"
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}
NOWHERE = torch.finfo(torch.float32).min  # the logit of a place that a row does not have
SALT = 1  # the head's place in dropout's hash; sites have their names' checksums


class SequenceHead(nn.Module):
    """Heads of all runs: (b t d) hidden states to (b outputs) logits, each row by its own run's head.

    The default pooling is the architecture's own: its token, and for BERT its pooler. A pooler that the checkpoint
    lacks is trained with the head, and stored, as is the first layer of a head that has two (RoBERTa's). All runs
    share `config`, which says how to pool.
    """

    def __init__(self, attached: Attached, config: HeadConfig, outputs: int, missing: frozenset[str] = frozenset()):
        super().__init__()
        self.pool: Pool
        self.pool, family, prefix = pooling(attached, config)
        self.dense_path = f"{prefix}{family.dense}" if family.dense and not family.fresh else None
        lacks = self.dense_path is not None and any(key.startswith(self.dense_path) for key in missing)
        self.trains_dense = (family.fresh and family.dense is not None) or lacks
        self.activation = ACTIVATIONS[family.activation]
        width = attached.sites.width
        std = float(getattr(attached.sites.config, "initializer_range", 0.02))
        params: dict[str, Param] = {"weight": normal(outputs, width, std=std)}
        if family.bias:
            params["bias"] = zeros(outputs)
        if self.trains_dense:
            params["dense_weight"] = normal(width, width, std=std)
            if family.dense_bias:
                params["dense_bias"] = zeros(width)
        if self.trains_dense and family.norm:
            params["norm_weight"] = ones(width)
        self.epsilon = float(getattr(attached.sites.config, "norm_eps", 1e-5))
        self._attached = [attached]  # not a submodule of the head
        self.outputs = outputs
        self.counts_virtual = config.pooling == "virtual"
        self.dropout = config.dropout
        attached.router.has_dropout |= config.dropout > 0
        constants = {run: {"dropout": config.dropout} for run in attached.runs}
        self.bank: Bank = attached.add_bank(PLACE, dict.fromkeys(attached.runs, params), constants)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """hidden (b t d), real (b t) true at the text's own tokens -> logits (b outputs)."""
        attached = self._attached[0]
        pooled = pool(hidden, real, self.pool)  # b d
        if self.dense_path is not None and not self.trains_dense:
            pooled = self.activation(attached.base.get_submodule(self.dense_path)(pooled))
        return per_run(attached, self.bank, pooled[:, None], self.dropout, self._layers)[:, 0]

    def reading(self, real: Tensor) -> AbstractContextManager[None]:
        """Inside, the model need give no more of its last states than what is pooled at the real tokens (b t)."""
        if self.pool == "mean":
            return nullcontext()
        return self._attached[0].reading(place_of(real, self.pool), real.shape[1])

    def _layers(self, h: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        """h (n rows d) -> (n rows outputs)."""
        if "dense_weight" in p:
            h = torch.bmm(h, p["dense_weight"].mT)
            h = self.activation(h + p["dense_bias"][:, None] if "dense_bias" in p else h)
        if "norm_weight" in p:
            h = F.layer_norm(h, h.shape[-1:], eps=self.epsilon) * p["norm_weight"][:, None]
        return _linear(h, p)


class TokenHead(nn.Module):
    """One layer of each run's own on single tokens: (b t d) hidden states to (b w outputs) logits.

    `config` has no pooling here but the default; its dropout is drawn by token.
    """

    def __init__(self, attached: Attached, config: HeadConfig, outputs: int):
        super().__init__()
        if config.pooling != "default":
            raise UserError(f"pooling = {config.pooling}, but this task reads each token by itself; leave pooling out")
        width = attached.sites.width
        std = float(getattr(attached.sites.config, "initializer_range", 0.02))
        params = {"weight": normal(outputs, width, std=std), "bias": zeros(outputs)}
        self._attached = [attached]
        self.outputs = outputs
        self.dropout = config.dropout
        attached.router.has_dropout |= config.dropout > 0
        constants = {run: {"dropout": config.dropout} for run in attached.runs}
        self.bank: Bank = attached.add_bank(PLACE, dict.fromkeys(attached.runs, params), constants)

    def forward(self, hidden: Tensor, places: Tensor) -> Tensor:
        """hidden (b t d), places (b w) to read, −1 where there is none -> (b w outputs), the lowest number there."""
        states = hidden.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1]))  # b w d
        logits = per_run(self._attached[0], self.bank, states, self.dropout, _linear)
        return logits.masked_fill(places[..., None] < 0, NOWHERE)


class VectorHead(nn.Module):
    """A text's vector, of length 1: the mean of its states, or as `config` pools. It has no tensors of its own."""

    def __init__(self, attached: Attached, config: HeadConfig):
        super().__init__()
        if config.pooling == "virtual" or config.dropout:
            raise UserError("this task has no head of its own: head.pooling may be mean, first or last, and no more")
        self.how: Pool = "mean" if config.pooling == "default" else config.pooling
        self.outputs = attached.sites.width

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """hidden (b t d), real (b t) true at the text's own tokens -> (b d), in fp32."""
        return F.normalize(pool(hidden, real, self.how).float(), dim=-1)


def must_train(attached: Attached) -> None:
    """Refuses runs that would train nothing, where a task has no head of its own."""
    for run in attached.runs:
        if not attached.parameters_of(run):
            raise UserError(
                f'run "{run}" would train nothing: its method leaves the base as it is, and this task adds no head; '
                "lora or any other method works"
            )


def per_run(
    attached: Attached,
    bank: Bank,
    states: Tensor,
    dropout: float,
    layers: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """states (b w d) -> (b w outputs): each row through the layers of its own run, behind dropout while training."""
    route = attached.router.active
    assert route is not None, "the head needs a route"
    logits: list[Tensor] = []
    for chunk in route.plan(bank.runs, states.device):
        rows = chunk.rows(states)
        if dropout and attached.training:
            keys = attached.router.row_keys(chunk)
            rate = chunk.spread(bank.constant("dropout"), rows.shape[0])
            positions = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[:2])
            rows = dropped(rows, keys, positions, SALT, rate)
        h = chunk.by_run(rows)  # n (rows w) d
        h = h.float() if h.dtype in (torch.float16, torch.bfloat16) else h
        p = bank.take(chunk, None if torch.is_autocast_enabled(h.device.type) else h.dtype)
        logits.append(layers(h, p).reshape(*rows.shape[:2], -1))
    joined = torch.cat(logits) if len(logits) > 1 else logits[0]
    return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined


def _linear(h: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """h (n rows d) -> (n rows outputs)."""
    out = torch.bmm(h, p["weight"].mT)
    return out + p["bias"][:, None] if "bias" in p else out


def pooling(attached: Attached, config: HeadConfig) -> tuple[Pool, Head, str]:
    """How to pool, the head's layers, and the prefix of the base's paths; another pooling has one layer alone."""
    head = attached.sites.head or guessed_head(attached)
    if config.pooling in ("default", "virtual"):
        return head.pool, head, attached.sites.prefix
    return config.pooling, replace(head, dense=None, norm=None), ""


def guessed_head(attached: Attached) -> Head:
    """For a family without a table: the last token where attention is causal, else the first."""
    from transformers.models.auto import modeling_auto as auto

    kind, writers = attached.sites.family, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    causal = attached.sites.encoder_decoder or (kind in writers and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    causal = causal or any(getattr(module, "is_causal", False) is True for module in attached.base.modules())
    return Head("last", "score", bias=False) if causal else Head("first", "classifier", bias=True)


def pool(hidden: Tensor, real: Tensor, how: Pool) -> Tensor:
    """hidden (b t d), real (b t) -> (b d): the first or last real token's state, or the mean of them."""
    if how == "mean":
        weights = real.to(hidden.dtype)[..., None]  # b t 1
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), place_of(real, how)]


def place_of(real: Tensor, how: Literal["first", "last"]) -> Tensor:
    """real (b t) -> (b): where the first or last real token stands."""
    flags = real.to(torch.int64)
    return flags.argmax(1) if how == "first" else real.shape[1] - 1 - flags.flip(1).argmax(1)


def head_keys(head: SequenceHead, family: Head, prefix: str) -> Mapping[str, str]:
    """Our names of a head's tensors -> the parameter names in the family's `…ForSequenceClassification`."""
    dense = family.dense if family.fresh else f"{prefix}{family.dense}"
    names = {f"{PLACE}.{part}": f"{family.classifier}.{part}" for part in ("weight", "bias")}
    names |= {f"{PLACE}.dense_{part}": f"{dense}.{part}" for part in ("weight", "bias")}
    names |= {f"{PLACE}.norm_weight": f"{family.norm}.weight"}
    return {name: path for name, path in names.items() if name.removeprefix(f"{PLACE}.") in head.bank.names}
