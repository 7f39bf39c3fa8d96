"""A union in PEFT's format: lora and bitfit are its LoRA with biases; it has no words for any other."""

from collections.abc import Sequence

from torch import Tensor

from graftlm.methods import _peft_lora
from graftlm.methods._method import MethodConfig, acts
from graftlm.methods._peft import WHOLE, NoWordsError, PeftForm
from graftlm.methods._peft_biases import base_bias, changes, rows_of
from graftlm.sites import Branch, Sites, Tensors


def united(parts: Sequence[MethodConfig], gates: bool, sites: Sites) -> PeftForm:
    """The form of a union of lora and bitfit; NoWordsError for any other."""
    if gates or [part.method for part in parts] not in (["lora", "bitfit"], ["bitfit", "lora"]):
        named = " and ".join(part.method for part in parts)
        said = " with gates" if gates else ""
        raise NoWordsError(f"PEFT's format has no words for a union of {named}{said}; it has them for lora and bitfit")
    lora, bitfit = sorted(parts, key=lambda part: part.method == "bitfit")
    form = _peft_lora.form(lora, sites)
    targeted = {branch.site.module for branch in acts(lora, sites) if isinstance(branch, Branch)}
    found = [branch.site for branch in acts(bitfit, sites) if isinstance(branch, Branch)]
    kind = _kind({site.module for site in found}, targeted, sites)
    bases = {site.module: base_bias(site, sites) for site in found}
    keys = {module: _key(module, module in targeted, sites) for module in bases}

    def write(ours: Tensors) -> dict[str, Tensor]:
        out = {module: bias.clone() for module, bias in bases.items()}
        for site in found:
            out[site.module][rows_of(site)] += ours[f"{site.name}.bias"].to(out[site.module])
        lora_only = {name: tensor for name, tensor in ours.items() if not name.endswith(".bias")}
        return form.write(lora_only) | {keys[module]: bias for module, bias in out.items()}

    def read(theirs: Tensors) -> dict[str, Tensor]:
        own = {module: theirs[key] for module, key in keys.items() if key in theirs}
        rest = {name: tensor for name, tensor in theirs.items() if name not in keys.values()}
        return form.read(rest) | changes([site for site in found if site.module in own], own, sites)

    return PeftForm({**form.body, "bias": kind}, write, read)


def _kind(biased: set[str], targeted: set[str], sites: Sites) -> str:
    every = {site.module for site in sites.biased()}
    if biased in (every, every - sites.poolers):
        return "all"
    if biased == targeted & every:
        return "lora_only"
    raise NoWordsError("PEFT trains every bias beside LoRA, or those of LoRA's own layers; bitfit here has others")


def _key(module: str, targeted: bool, sites: Sites) -> str:
    return f"{WHOLE}{sites.class_prefix}{module}.{'base_layer.' if targeted else ''}bias"
