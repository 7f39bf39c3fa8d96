"""The head formulation for whole texts: pool the hidden states by the mask, then a layer of each run's own."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from graftlm.core.settings import HeadConfig
from graftlm.sites import Attached, Bank, Head, Param, normal, zeros
from graftlm.sites import keyed_dropout as dropped

Pool = Literal["first", "last", "mean"]
PLACE = "head"
SALT = 1  # the head's place in dropout's hash; sites have their names' checksums


class SequenceHead(nn.Module):
    """Heads of all runs: (b t d) hidden states to (b outputs) logits, each row by its own run's head.

    The default pooling is the architecture's own: its token, and for BERT its pooler. A pooler that the checkpoint
    lacks is trained with the head, and stored. All runs share `config`, which says how to pool.
    """

    def __init__(self, attached: Attached, config: HeadConfig, outputs: int, missing: frozenset[str] = frozenset()):
        super().__init__()
        self.pool: Pool
        self.pool, dense, bias = pooling(attached, config)
        self.dense_path = dense
        self.trains_dense = dense is not None and any(key.startswith(dense) for key in missing)
        width = attached.sites.width
        std = float(getattr(attached.sites.config, "initializer_range", 0.02))
        params: dict[str, Param] = {"weight": normal(outputs, width, std=std)}
        if bias:
            params["bias"] = zeros(outputs)
        if self.trains_dense:
            params |= {"dense_weight": normal(width, width, std=std), "dense_bias": zeros(width)}
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
        route = attached.router.active
        assert route is not None, "the head needs a route"
        pooled = pool(hidden, real, self.pool)  # b d
        if self.dense_path is not None and not self.trains_dense:
            pooled = torch.tanh(attached.base.get_submodule(self.dense_path)(pooled))
        logits: list[Tensor] = []
        for chunk in route.plan(self.bank.runs, pooled.device):
            rows = chunk.rows(pooled)
            if self.dropout and attached.training:
                keys = attached.router.row_keys(chunk)
                rate = chunk.spread(self.bank.constant("dropout"), rows.shape[0])
                rows = dropped(rows[:, None], keys, torch.zeros_like(keys)[:, None], SALT, rate)[:, 0]
            h = chunk.by_run(rows[:, None])  # n rows d
            p = self.bank.take(chunk, None if torch.is_autocast_enabled(h.device.type) else h.dtype)
            if self.trains_dense:
                h = torch.tanh(torch.baddbmm(p["dense_bias"][:, None], h, p["dense_weight"].mT))
            out = torch.bmm(h, p["weight"].mT)  # n rows outputs
            logits.append((out + p["bias"][:, None] if "bias" in p else out).flatten(0, 1))
        joined = torch.cat(logits) if len(logits) > 1 else logits[0]
        return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined


def pooling(attached: Attached, config: HeadConfig) -> tuple[Pool, str | None, bool]:
    """How to pool, the path of the dense layer that follows or None, and whether the last layer has a bias."""
    head = attached.sites.head or guessed_head(attached)
    dense = f"{attached.sites.prefix}{head.dense}" if head.dense else None
    if config.pooling in ("default", "virtual"):
        return head.pool, dense, head.bias
    return config.pooling, None, head.bias


def guessed_head(attached: Attached) -> Head:
    """For a family without a table: the last token where attention is causal, else the first."""
    causal = any(getattr(module, "is_causal", False) is True for module in attached.base.modules())
    return Head("last", "score", bias=False) if causal else Head("first", "classifier", bias=True)


def pool(hidden: Tensor, real: Tensor, how: Pool) -> Tensor:
    """hidden (b t d), real (b t) -> (b d): the first or last real token's state, or the mean of them."""
    if how == "mean":
        weights = real.to(hidden.dtype)[..., None]  # b t 1
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    flags = real.to(torch.int64)
    place = flags.argmax(1) if how == "first" else real.shape[1] - 1 - flags.flip(1).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), place]


def head_keys(head: SequenceHead, family: Head, prefix: str) -> Mapping[str, str]:
    """Our names of a head's tensors -> the parameter names in the family's `…ForSequenceClassification`."""
    names = {f"{PLACE}.weight": f"{family.classifier}.weight", f"{PLACE}.bias": f"{family.classifier}.bias"}
    if head.trains_dense:
        names |= {f"{PLACE}.dense_{part}": f"{prefix}{family.dense}.{part}" for part in ("weight", "bias")}
    return {name: path for name, path in names.items() if name.removeprefix(f"{PLACE}.") in head.bank.names}
