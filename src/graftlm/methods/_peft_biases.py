"""Biases beside LoRA in PEFT's files, `bias` = "all" or "lora_only". Ours are changes of the base's, PEFT's whole."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.sites import Site, Sites

COPY = re.compile(r"\.(original_module|modules_to_save)\.")  # PEFT writes a head's biases three times


def biases_of(
    kind: str, rest: Mapping[str, Tensor], targeted: Sequence[str], sites: Sites
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The biases of the base's layers among a file's other tensors, by our module paths; and what is left of them.

    A layer whose weight is in the file was saved whole, and keeps its bias beside it.
    """
    whole = {_module(path.removesuffix(".weight"), sites) for path in rest if path.endswith(".weight")}
    wanted = {site.module for site in sites.biased()} - whole
    if kind == "lora_only":
        wanted &= set(targeted)
    found: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    for path, tensor in rest.items():
        module = _module(path, sites)
        if module in wanted:
            found[module] = tensor
        elif not COPY.search(path):
            left[path] = tensor
    missing = sorted(wanted - found.keys() - sites.poolers)
    if missing:
        raise UserError(f'bias = "{kind}" in adapter_config.json, but the file has no bias of {missing[0]}')
    return found, left


def _module(path: str, sites: Sites) -> str:
    module = path.removesuffix(".bias")
    for prefix in (sites.class_prefix, sites.prefix):
        if prefix and module.startswith(prefix):
            return sites.prefix + module.removeprefix(prefix)
    return sites.prefix + module


def changes(found: Sequence[Site], biases: Mapping[str, Tensor], sites: Sites) -> dict[str, Tensor]:
    """BitFit's tensors: what each bias is beyond the base's own."""
    out: dict[str, Tensor] = {}
    for site in found:
        base = base_bias(site, sites)
        given = biases[site.module]
        if given.shape != base.shape:
            raise UserError(f"the bias of {site.module} has shape {tuple(given.shape)}; {tuple(base.shape)} is needed")
        out[f"{site.name}.bias"] = (given.to(base) - base)[rows_of(site)]
    return out


def base_bias(site: Site, sites: Sites) -> Tensor:
    """The bias of the whole layer that a site is, or is a part of."""
    bias: Any = sites.model.get_submodule(site.module).bias
    return bias.detach().float()


def rows_of(site: Site) -> Tensor | slice:
    """Which of the whole layer's outputs a site is."""
    if site.rows is None:
        return slice(None)
    return site.rows.of_outputs(torch.arange(site.rows.groups * site.rows.width))
