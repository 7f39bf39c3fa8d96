"""Prefixes at attention, through Transformers' attention interface: keys and values that no cache ever holds.

Rows with a prefix attend to it and to the text; rows without one go through the plain kernel, so their bits do
not depend on their neighbours.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from graftlm.sites._dropout import keyed_dropout, salt
from graftlm.sites._route import Chunk
from graftlm.sites._router import Derived, Router

NAME = "graftlm"
ATTRIBUTE = "graftlm_prefixes"


@dataclass
class Prefixes:
    """What an attention module of one layer needs to find its part of the prefixes."""

    router: Router
    banks: list[tuple[Derived, Tensor | None]]
    layer: int
    heads: int
    head_width: int

    def chunks(self) -> list[tuple[Chunk, Derived, Tensor | None]]:
        route = self.router.active
        if route is None:
            return []
        return [
            (chunk, derived, rate)
            for derived, rate in self.banks
            for chunk in route.plan(derived.bank.runs, self.router.device)
        ]

    def keys_and_values(
        self, chunk: Chunk, derived: Derived, rate: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(rows heads length head_width) each, for a chunk's rows."""
        assert derived.value is not None
        width = self.heads * self.head_width
        start = 2 * self.layer * width
        rows = like.shape[0]
        pair = chunk.spread(derived.value[..., start : start + 2 * width], rows)  # rows length 2·width
        if rate is not None and self.router.training:
            places = torch.arange(pair.shape[1], device=pair.device).expand(rows, -1)
            keys = self.router.row_keys(chunk)
            pair = keyed_dropout(pair, keys, places, salt(f"prefix.{self.layer}"), chunk.spread(rate, rows))
        heads = pair.to(like.dtype).unflatten(-1, (2, self.heads, self.head_width))  # rows length 2 heads width
        key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Transformers' `sdpa` attention with a prefix in front of the keys and values of the rows that have one."""
    prefixes: Prefixes | None = getattr(module, ATTRIBUTE, None)
    chunks = prefixes.chunks() if prefixes is not None else []
    if prefixes is None or not chunks:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if len(chunks) == 1 and chunks[0][0].whole:
        return _with_prefix(module, prefixes, chunks[0], query, key, value, attention_mask, kwargs), None
    route = prefixes.router.active
    assert route is not None
    pieces: list[Tensor] = []
    for rows, index in route.in_order([chunk for chunk, _, _ in chunks]):
        own = query[rows], key[rows], value[rows]
        mask = _mask_rows(attention_mask, rows)
        if index is None:
            pieces.append(sdpa_attention_forward(module, *own, mask, **kwargs)[0])
        else:
            pieces.append(_with_prefix(module, prefixes, chunks[index], *own, mask, kwargs))
    return torch.cat(pieces), None


def _with_prefix(
    module: nn.Module,
    prefixes: Prefixes,
    item: tuple[Chunk, Derived, Tensor | None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    chunk, derived, rate = item
    past_key, past_value = prefixes.keys_and_values(chunk, derived, rate, key)
    mask = _extended(module, mask, chunk, derived, query, key, kwargs.get("is_causal"))
    key, value = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
    options: dict[str, Any] = {**kwargs, "is_causal": False}
    return sdpa_attention_forward(module, query, key, value, mask, **options)[0]


def _extended(
    module: nn.Module,
    mask: Tensor | None,
    chunk: Chunk,
    derived: Derived,
    query: Tensor,
    key: Tensor,
    causal: bool | None,
) -> Tensor | None:
    """The mask with columns for the prefix: all open, but for what pads a shorter prefix to the longest one."""
    length, q, kv = int(derived.value.shape[1]) if derived.value is not None else 0, query.shape[2], key.shape[2]
    if causal is None:
        causal = bool(getattr(module, "is_causal", True))
    if mask is None and causal and q > 1:
        mask = torch.ones(q, kv, dtype=torch.bool, device=query.device).tril(kv - q)[None, None]
    if mask is None:
        if derived.equal_lengths:
            return None
        mask = torch.ones(1, 1, q, kv, dtype=torch.bool, device=query.device)
    opened = F.pad(mask, (length, 0), value=True if mask.dtype == torch.bool else 0.0)
    if derived.equal_lengths:
        return opened
    lengths = chunk.spread(derived.lengths, query.shape[0])
    present = torch.arange(length + kv, device=query.device) < lengths[:, None]
    present = present | (torch.arange(length + kv, device=query.device) >= length)
    present = present[:, None, None]  # rows 1 1 length + kv
    return opened & present if opened.dtype == torch.bool else opened.masked_fill(~present, torch.finfo(mask.dtype).min)


def _mask_rows(mask: Tensor | None, rows: slice) -> Tensor | None:
    return mask if mask is None or mask.shape[0] == 1 else mask[rows]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
