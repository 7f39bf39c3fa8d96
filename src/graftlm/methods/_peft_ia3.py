"""(IA)³ in PEFT's format: `ia3_l` of each layer, (d_out 1), or (1 d_in) where the layer's input is scaled.

Ours may scale a part of a fused layer, where PEFT knows whole layers: the rows outside get ones, which change nothing.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import UserError
from graftlm.methods._method import acts, parse
from graftlm.methods._peft import WHOLE, PeftForm, PeftWords, Theirs, base_path, heed, placed
from graftlm.methods._peft_targets import as_targeted, named, words
from graftlm.sites import Branch, Sites, Tensors

END = ".ia3_l"
READ = ("target_modules", "exclude_modules", "feedforward_modules", "fan_in_fan_out", "modules_to_save")
HARMLESS = {"init_ia3_weights": True}


def form(config: Any, sites: Sites) -> PeftForm:
    grouped: dict[str, list[Branch]] = {}
    for branch in acts(config, sites):
        assert isinstance(branch, Branch)
        grouped.setdefault(branch.site.module, []).append(branch)
    targets, inward = _targets(grouped, sites)
    body: dict[str, Any] = {
        "peft_type": "IA3",
        "target_modules": targets,
        "feedforward_modules": inward,
        "inference_mode": True,
    }
    if any(isinstance(sites.model.get_submodule(path), Conv1D) for path in grouped):
        body["fan_in_fan_out"] = True
    places = {f"{WHOLE}{sites.class_prefix}{path}{END}": own for path, own in grouped.items()}

    def write(ours: Tensors) -> dict[str, Tensor]:
        return {key: _joined(own, ours) for key, own in places.items()}

    def read(theirs: Tensors) -> dict[str, Tensor]:
        out = {key: tensor for key, tensor in theirs.items() if key not in places}
        for key, own in places.items():
            if key in theirs:
                out |= _split(key, own, theirs[key])
        return out

    return PeftForm(body, write, read)


def _targets(grouped: Mapping[str, list[Branch]], sites: Sites) -> tuple[list[str], list[str]]:
    """PEFT's names of all layers, and those among them of the layers whose inputs are scaled."""
    inside = {f"{sites.class_prefix}{path}": own[0].where == "input" for path, own in grouped.items()}
    names = sites.module_names([own[0].site for own in grouped.values()])
    inward = [name for name in names if any(named([name], path) and scaled for path, scaled in inside.items())]
    if any(_inward(inward, path) and not scaled for path, scaled in inside.items()):
        return sorted(inside), sorted(path for path, scaled in inside.items() if scaled)
    return names, inward


def _joined(own: list[Branch], ours: Tensors) -> Tensor:
    """Our scales of one layer as PEFT's one."""
    site = own[0].site
    first = ours[f"{site.name}.scale"]
    if own[0].where == "input":
        return first[None]
    if site.rows is None:
        return first[:, None]
    whole = first.new_ones(site.rows.groups * site.rows.width)
    for branch in own:
        whole[_rows(branch)] = ours[f"{branch.site.name}.scale"]
    return whole[:, None]


def _split(key: str, own: list[Branch], scale: Tensor) -> dict[str, Tensor]:
    site, flat = own[0].site, scale.flatten()
    if site.rows is None:
        return {f"{site.name}.scale": flat}
    if flat.shape[0] != (width := site.rows.groups * site.rows.width):
        raise UserError(f"{key} has {flat.shape[0]} numbers; {width} are needed")
    rest = flat.clone()
    for branch in own:
        rest[_rows(branch)] = 1
    if (rest != 1).any():
        raise UserError(
            f"{key} was trained beyond {', '.join(branch.site.role for branch in own)}, so this is no longer the run "
            "that wrote it; read it as another's, with graftlm import"
        )
    return {f"{branch.site.name}.scale": flat[_rows(branch)] for branch in own}


def _rows(branch: Branch) -> Tensor:
    rows = branch.site.rows
    assert rows is not None
    return rows.of_outputs(torch.arange(rows.groups * rows.width))


def read(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    """An IA3 adapter; the layers of its `feedforward_modules` are those whose input ours scales."""
    notes = heed(body, READ, HARMLESS, {})
    found = {key.removeprefix(WHOLE).removesuffix(END): value for key, value in tensors.items() if key.endswith(END)}
    rest = {base_path(key): value for key, value in tensors.items() if not key.endswith(END)}
    if not found:
        raise UserError("the adapter's file holds no ia3_l")
    as_targeted(body, found, sites)
    places = {path: placed(path, sites) for path in found}
    inward = {module for path, module in places.items() if _inward(body.get("feedforward_modules") or (), path)}
    options: dict[str, Any] = {"sites": words(places.values(), sites)}
    usual = parse("ia3", options)
    if {branch.site.module for branch in _branches(usual, sites) if branch.where == "input"} != inward:
        options["inputs"] = words(inward, sites) if inward else ()
    config = parse("ia3", options)
    names = {branch.site.module: branch.site.name for branch in _branches(config, sites)}
    ours = {f"{names[places[path]]}.scale": scale.flatten() for path, scale in found.items()}
    return Theirs(config, ours, rest, notes)


def _branches(config: Any, sites: Sites) -> list[Branch]:
    return [branch for branch in acts(config, sites) if isinstance(branch, Branch)]


def _inward(words: str | Collection[str], path: str) -> bool:
    """PEFT's own rule for `feedforward_modules`: names match the end of a path, within a word too."""
    if isinstance(words, str):
        return re.fullmatch(words, path) is not None
    return path.endswith(tuple(words))


WORDS = PeftWords(form, read)
