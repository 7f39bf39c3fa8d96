"""Prefixes at attention, through Transformers' attention interface: keys and values that no cache ever holds.

Rows with a prefix attend to it and to the text; rows without one go through the kernel that the base was loaded with,
so their bits do not depend on their neighbours.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import create_position_bias_mask, repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from graftlm.core.errors import UserError
from graftlm.kernels import current, products
from graftlm.sites._dropout import keyed_dropout, salt
from graftlm.sites._route import Chunk
from graftlm.sites._router import Derived, Router
from graftlm.sites._site import Site
from graftlm.sites._view import Kept, View, by_run, compute_dtype

Gate = Callable[[View, dict[str, Tensor], int], Tensor]
NAME, EAGER, QUICK = "graftlm", "graftlm-eager", "graftlm-quick"
OURS = {"sdpa": NAME, "eager": EAGER}
ATTRIBUTE = "graftlm_prefixes"
RECORDER = "graftlm_recorder"


class Kernel(Protocol):
    """Attention as Transformers calls it: query (b h t d) -> (b t h d)."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Any]: ...


@dataclass
class Placed:
    """A bank of prefixes at an attention module, its dropout, and the gate on them."""

    derived: Derived
    rate: Tensor | None
    gate: Gate | None = None


@dataclass
class Prefixes:
    """What an attention module needs to find its part of the prefixes.

    `layers` are the layers that it is, one for each of its calls in a forward pass. `site` is its first layer's query,
    and `entry` keeps what that reads, where a gate does too.
    """

    router: Router
    layers: tuple[int, ...]
    heads: int
    head_width: int
    part: str
    site: Site
    entry: Kept | None = None
    banks: list[Placed] = field(default_factory=list)

    def chunks(self) -> list[tuple[Chunk, Placed]]:
        route = self.router.active
        if route is None:
            return []
        return [
            (chunk, placed)
            for placed in self.banks
            for chunk in route.plan(placed.derived.bank.runs, self.router.device)
        ]

    def layer(self, module: nn.Module) -> int:
        """Which layer this call of the module is."""
        return self.layers[self.router.call(module, len(self.layers))]

    def keys_and_values(self, chunk: Chunk, placed: Placed, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(rows heads length head_width) each, for a chunk's rows."""
        derived, rows = placed.derived, like.shape[0]
        assert derived.value is not None
        width = self.heads * self.head_width
        start = 2 * layer * width
        pair = chunk.spread(derived.value[..., start : start + 2 * width], rows)  # rows length 2·width
        if placed.rate is not None and self.router.training:
            places = torch.arange(pair.shape[1], device=pair.device).expand(rows, -1)
            keys = self.router.row_keys(chunk)
            name = f"prefix.{self.part}{layer}"
            pair = keyed_dropout(pair, keys, places, salt(name), chunk.spread(placed.rate, rows))
        if placed.gate is not None:
            pair = pair * self._gate(placed.gate, chunk, placed, layer)
        heads = pair.to(like.dtype).unflatten(-1, (2, self.heads, self.head_width))  # rows length 2 heads width
        key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def _gate(self, gate: Gate, chunk: Chunk, placed: Placed, layer: int) -> Tensor:
        """(rows 1 1), from the hidden states that the attention reads."""
        assert self.entry is not None
        assert self.entry.value is not None
        x = by_run(self.entry.value, chunk, self.router)
        site = replace(self.site, role=self.site.role.removesuffix(".query"))
        dtype = compute_dtype(x, wide=True)
        view = View(site, nn.Identity(), chunk, self.router, input=self.entry.value, output=x, y=x, dtype=dtype)
        return gate(view, placed.derived.bank.take(chunk, dtype), layer).reshape(-1, 1, 1)


def quick(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Transformers' `sdpa` attention by the kernel that is quickest here for the batch's length."""
    bias: Tensor | None = kwargs.get("position_bias")
    odd = kwargs.get("dropout") or kwargs.get("softcap") or kwargs.get("cache") is not None
    odd = odd or torch.compiler.is_compiling() or torch.is_autocast_enabled(query.device.type)
    if odd or (bias is not None and bias.requires_grad):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if current().attention(query, key) == "torch":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    q = query.shape[2]
    if causal and attention_mask is None and q > 1:
        key, value = key[:, :, :q], value[:, :, :q]
        bias = None if bias is None else bias[..., :q]
        attention_mask = torch.ones(q, q, dtype=torch.bool, device=query.device).tril()[None, None]
    if bias is not None:
        attention_mask = create_position_bias_mask(bias, attention_mask, False, query, key)
    scale = kwargs.get("scaling")
    out = products(query, key, value, attention_mask, query.shape[-1] ** -0.5 if scale is None else scale)
    return out.transpose(1, 2).contiguous(), None


def eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Any]:
    """Transformers' `eager` attention, which each family's file defines beside its attention."""
    kernel = sys.modules[type(module).__module__].eager_attention_forward
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # it adds the mask
        shut = torch.finfo(query.dtype).min
        attention_mask = query.new_zeros(attention_mask.shape).masked_fill(~attention_mask, shut)
    return kernel(module, query, key, value, attention_mask, **kwargs)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernel: Kernel = sdpa_attention_forward,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Transformers' attention by `kernel` with a prefix in front of the keys and values of the rows that have one."""
    prefixes: Prefixes | None = getattr(module, ATTRIBUTE, None)
    recorder: Callable[[Tensor, Tensor], None] | None = getattr(module, RECORDER, None)
    if recorder is not None:
        recorder(key, value)
    chunks = prefixes.chunks() if prefixes is not None else []
    if prefixes is None or not chunks:
        return kernel(module, query, key, value, attention_mask, **kwargs)
    layer = prefixes.layer(module)
    if len(chunks) == 1 and chunks[0][0].whole:
        return _with_prefix(kernel, module, prefixes, chunks[0], layer, query, key, value, attention_mask, kwargs), None
    if any(chunk.places is not None for chunk, _ in chunks):
        out = kernel(module, query, key, value, attention_mask, **kwargs)[0]
        for chunk, placed in chunks:
            own = chunk.rows(query), chunk.rows(key), chunk.rows(value)
            mask = _of_chunk(attention_mask, chunk)
            options = {**kwargs, "position_bias": _of_chunk(kwargs.get("position_bias"), chunk)}
            rows = _with_prefix(kernel, module, prefixes, (chunk, placed), layer, *own, mask, options)
            out = chunk.put(out, rows)
        return out, None
    route = prefixes.router.active
    assert route is not None
    pieces: list[Tensor] = []
    for rows, index in route.in_order([chunk for chunk, _ in chunks]):
        own = query[rows], key[rows], value[rows]
        mask = _some_rows(attention_mask, rows)
        options = {**kwargs, "position_bias": _some_rows(kwargs.get("position_bias"), rows)}
        if index is None:
            pieces.append(kernel(module, *own, mask, **options)[0])
        else:
            pieces.append(_with_prefix(kernel, module, prefixes, chunks[index], layer, *own, mask, options))
    return torch.cat(pieces), None


def _with_prefix(
    kernel: Kernel,
    module: nn.Module,
    prefixes: Prefixes,
    item: tuple[Chunk, Placed],
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    chunk, placed = item
    past_key, past_value = prefixes.keys_and_values(chunk, placed, layer, key)
    mask = _extended(module, mask, chunk, placed.derived, query, key, kwargs.get("is_causal"))
    key, value = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
    options: dict[str, Any] = {**kwargs, "is_causal": False}
    if (bias := kwargs.get("position_bias")) is not None:
        options["position_bias"] = F.pad(bias, (past_key.shape[2], 0))  # a prefix has no place to be relative to
    return kernel(module, query, key, value, mask, **options)[0]


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
    if mask is None and causal and q > 1:  # keys past the queries are room that a static cache has not filled yet
        mask = torch.ones(q, kv, dtype=torch.bool, device=query.device).tril()[None, None]
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


def _of_chunk(values: Tensor | None, chunk: Chunk) -> Tensor | None:
    return values if values is None or values.shape[0] == 1 else chunk.rows(values)


def _some_rows(values: Tensor | None, rows: slice) -> Tensor | None:
    return values if values is None or values.shape[0] == 1 else values[rows]


def take_over(model: nn.Module, name: str | None = None) -> list[tuple[Any, str]]:
    """Has all attention of a model run through `attend`; gives what `give_back` needs.

    It is computed as the base was loaded, sdpa or eager, and under the name QUICK by quick kernels.

    Each stack of an encoder-decoder has a config of its own, which says how its attention runs.
    """
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for _, implementation in before:
        if implementation not in (*OURS, *OURS.values()) and name is None:
            raise UserError(
                f"attn_implementation = {implementation} takes no prefix; load the model with {' or '.join(OURS)}"
            )
    for config, implementation in before:
        config._attn_implementation = name or OURS.get(implementation, implementation)
    return before


def give_back(before: list[tuple[Any, str]]) -> None:
    for config, implementation in before:
        config._attn_implementation = implementation


AttentionInterface.register(NAME, attend)
AttentionInterface.register(EAGER, partial(attend, kernel=eager))
AttentionInterface.register(QUICK, partial(attend, kernel=quick))
for _name, _mask in ((NAME, sdpa_mask), (EAGER, eager_mask), (QUICK, sdpa_mask)):
    AttentionMaskInterface.register(_name, _mask)
