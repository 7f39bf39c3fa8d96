"""LoRA with biases in PEFT's format: its `bias` = "all" or "lora_only" is the union of lora and bitfit.

PEFT stores a bias itself where ours is a change of the base's: one is the other and the base's own bias.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods import _peft_lora
from graftlm.methods._method import MethodConfig, acts
from graftlm.methods._peft import WHOLE, NoWordsError, PeftForm
from graftlm.sites import Branch, Site, Sites, Tensors

COPY = re.compile(r"\.(original_module|modules_to_save)\.")  # PEFT writes a head's biases three times


def united(parts: Sequence[MethodConfig], gates: bool, sites: Sites) -> PeftForm:
    """The form of a union of lora and bitfit; NoWordsError for any other."""
    if gates or [part.method for part in parts] not in (["lora", "bitfit"], ["bitfit", "lora"]):
        named = " and ".join(part.method for part in parts)
        said = " with gates" if gates else ""
        raise NoWordsError(f"PEFT's format has no words for a union of {named}{said}; it has them for lora and bitfit")
    lora, bitfit = sorted(parts, key=lambda part: part.method == "bitfit")
    if getattr(lora, "dora", False) and parts[0] is bitfit:
        raise NoWordsError("PEFT adds a bias after DoRA's magnitude, this union before; train lora+bitfit instead")
    form = _peft_lora.form(lora, sites)
    targeted = {branch.site.module for branch in acts(lora, sites) if isinstance(branch, Branch)}
    found = [branch.site for branch in acts(bitfit, sites) if isinstance(branch, Branch)]
    kind = _kind({site.module for site in found}, targeted, sites)
    bases = {site.module: _base(site, sites) for site in found}
    keys = {module: _key(module, module in targeted, sites) for module in bases}

    def write(ours: Tensors) -> dict[str, Tensor]:
        out = {module: bias.clone() for module, bias in bases.items()}
        for site in found:
            out[site.module][_rows(site)] += ours[f"{site.name}.bias"].to(out[site.module])
        lora_only = {name: tensor for name, tensor in ours.items() if not name.endswith(".bias")}
        return form.write(lora_only) | {keys[module]: bias for module, bias in out.items()}

    def read(theirs: Tensors) -> dict[str, Tensor]:
        own = {module: theirs[key] for module, key in keys.items() if key in theirs}
        rest = {name: tensor for name, tensor in theirs.items() if name not in keys.values()}
        return form.read(rest) | changes([site for site in found if site.module in own], own, sites)

    return PeftForm({**form.body, "bias": kind}, write, read)


def _kind(biased: set[str], targeted: set[str], sites: Sites) -> str:
    every = {site.module for site in sites.biased()}
    if biased in (every, every - _pooler(sites)):
        return "all"
    if biased == targeted & every:
        return "lora_only"
    raise NoWordsError("PEFT trains every bias beside LoRA, or those of LoRA's own layers; bitfit here has others")


def _pooler(sites: Sites) -> set[str]:
    """The pooler, which some families' classes with a head do not have."""
    return {site.module for site in sites.biased() if site.role == "pooler"}


def _key(module: str, targeted: bool, sites: Sites) -> str:
    return f"{WHOLE}{sites.class_prefix}{module}.{'base_layer.' if targeted else ''}bias"


def biases_of(
    kind: str, rest: Mapping[str, Tensor], targeted: Sequence[str], sites: Sites
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The biases of the base's layers among a file's other tensors, by our module paths; and what is left of them."""
    wanted = {site.module for site in sites.biased()}
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
    missing = sorted(wanted - found.keys() - _pooler(sites))
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
        base = _base(site, sites)
        given = biases[site.module]
        if given.shape != base.shape:
            raise UserError(f"the bias of {site.module} has shape {tuple(given.shape)}; {tuple(base.shape)} is needed")
        out[f"{site.name}.bias"] = (given.to(base) - base)[_rows(site)]
    return out


def _base(site: Site, sites: Sites) -> Tensor:
    bias: Any = sites.model.get_submodule(site.module).bias
    return bias.detach().float()


def _rows(site: Site) -> Tensor | slice:
    if site.rows is None:
        return slice(None)
    return site.rows.of_outputs(torch.arange(site.rows.groups * site.rows.width))
