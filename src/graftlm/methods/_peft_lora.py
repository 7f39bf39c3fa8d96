"""LoRA in PEFT's format: `lora_A` (r d_in) and `lora_B` (d_out r) of each layer, scaled by lora_alpha / r.

Ours may act on a part of a fused layer, where PEFT knows whole layers: parts of ranks r₁ and r₂ become one `lora_A`
of rank r₁ + r₂, the `down`s stacked, and one `lora_B` with each `up` in its own rows and columns, zero elsewhere; with
lora_alpha grown alike, the product is ours exactly. DoRA's magnitudes of the rows outside are their weights' norms,
which change nothing.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import UserError
from graftlm.methods._method import acts
from graftlm.methods._peft import WHOLE, PeftForm, PeftWords
from graftlm.methods._peft_lora_read import read
from graftlm.sites import Branch, Site, Sites, Tensors

NAMES = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
EMBEDDED = NAMES | {"down": "lora_embedding_A", "up": "lora_embedding_B"}


@dataclass(frozen=True)
class Layer:
    """One layer of the model: our branches on it (parts of it, or one whole), and the one scale that PEFT has."""

    path: str
    module: nn.Module
    branches: tuple[Branch, ...]

    @property
    def ranks(self) -> list[int]:
        return [branch.params["down"].shape[0] for branch in self.branches]

    @property
    def scale(self) -> float:
        return self.branches[0].constants["scale"]

    @property
    def ratios(self) -> list[float]:
        """By what each branch's `up` is multiplied, so that one scale does for all."""
        return [branch.constants["scale"] / self.scale for branch in self.branches]

    def key(self, name: str) -> str:
        names = EMBEDDED if self.branches[0].site.kind == "embedding" else NAMES
        return f"{WHOLE}{self.path}.{names[name]}"


def form(config: Any, sites: Sites) -> PeftForm:
    layers = _layers(acts(config, sites), sites)
    rooted = config.rslora
    wanted = {
        layer.path: (sum(layer.ranks), layer.scale * sum(layer.ranks) ** (0.5 if rooted else 1)) for layer in layers
    }
    (rank, alpha), _ = Counter(wanted.values()).most_common(1)[0]
    body: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _short(alpha),
        "target_modules": sites.module_names([branch.site for layer in layers for branch in layer.branches]),
        "inference_mode": True,
    }
    optional = {
        "rank_pattern": {re.escape(path): r for path, (r, _) in wanted.items() if r != rank},
        "alpha_pattern": {re.escape(path): _short(a) for path, (_, a) in wanted.items() if a != alpha},
        "lora_dropout": config.dropout,
        "use_rslora": rooted,
        "use_dora": any("magnitude" in layer.branches[0].params for layer in layers),
        "fan_in_fan_out": any(isinstance(layer.module, Conv1D) for layer in layers),
    }
    writing = [_both_ways(layer) for layer in layers]
    known = {layer.key(name) for layer in layers for name in layer.branches[0].params}

    def write(ours: Tensors) -> dict[str, Tensor]:
        return {key: tensor for one, _ in writing for key, tensor in one(ours).items()}

    def read(theirs: Tensors) -> dict[str, Tensor]:
        rest = {key: tensor for key, tensor in theirs.items() if key not in known}
        return {name: tensor for _, other in writing for name, tensor in other(theirs).items()} | rest

    return PeftForm(body | {name: value for name, value in optional.items() if value}, write, read)


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _layers(found: Sequence[Any], sites: Sites) -> list[Layer]:
    grouped: dict[str, list[Branch]] = {}
    for branch in found:
        grouped.setdefault(branch.site.module, []).append(branch)
    return [
        Layer(f"{sites.class_prefix}{path}", sites.model.get_submodule(path), tuple(branches))
        for path, branches in grouped.items()
    ]


Way = Callable[[Tensors], dict[str, Tensor]]


def _both_ways(layer: Layer) -> tuple[Way, Way]:
    """A layer's tensors from our names to PEFT's, and back; those that a file lacks are left out."""
    if layer.branches[0].site.rows is not None:
        return _blocks(layer)
    site = layer.branches[0].site
    keys = {f"{site.name}.{name}": layer.key(name) for name in layer.branches[0].params}

    def write(ours: Tensors) -> dict[str, Tensor]:
        return {theirs: ours[name] for name, theirs in keys.items()}

    def read(theirs: Tensors) -> dict[str, Tensor]:
        return {name: theirs[key] for name, key in keys.items() if key in theirs}

    return write, read


def _blocks(layer: Layer) -> tuple[Way, Way]:
    """Parts of a fused layer as blocks of one `lora_A` and one `lora_B`."""
    sites = [branch.site for branch in layer.branches]
    places = [_rows(site) for site in sites]
    columns = torch.tensor(layer.ranks).cumsum(0).tolist()
    spans = [slice(stop - rank, stop) for stop, rank in zip(columns, layer.ranks, strict=True)]
    parts = list(zip(sites, places, spans, layer.ratios, strict=True))
    has_magnitude = "magnitude" in layer.branches[0].params

    def write(ours: Tensors) -> dict[str, Tensor]:
        first = ours[f"{sites[0].name}.up"]
        up = first.new_zeros(_width(sites[0]), columns[-1])
        for site, rows, span, ratio in parts:
            up[rows, span] = ours[f"{site.name}.up"] * ratio
        out = {layer.key("down"): torch.cat([ours[f"{site.name}.down"] for site in sites]), layer.key("up"): up}
        if has_magnitude:
            magnitude = _weight(layer.module).norm(dim=1).to(first)
            for site, rows, _, _ in parts:
                magnitude[rows] = ours[f"{site.name}.magnitude"]
            out[layer.key("magnitude")] = magnitude
        return out

    def read(theirs: Tensors) -> dict[str, Tensor]:
        wanted = ["down", "up", *(["magnitude"] if has_magnitude else [])]
        if not all(layer.key(name) in theirs for name in wanted):
            return {}
        down, up = theirs[layer.key("down")], theirs[layer.key("up")].clone()
        if down.shape[0] != columns[-1] or tuple(up.shape) != (_width(sites[0]), columns[-1]):
            raise UserError(
                f"{layer.key('up')} has shape {tuple(up.shape)}; {(_width(sites[0]), columns[-1])} is needed"
            )
        out: dict[str, Tensor] = {}
        for site, rows, span, ratio in parts:
            out[f"{site.name}.down"] = down[span].clone()
            out[f"{site.name}.up"] = up[rows, span] / ratio
            up[rows, span] = 0
            if has_magnitude:
                out[f"{site.name}.magnitude"] = theirs[layer.key("magnitude")][rows]
        if up.any():
            raise UserError(
                f"{layer.path} was trained beyond {', '.join(site.role for site in sites)}, so this is no longer the "
                "run that wrote it; read it as another's, with graftlm import"
            )
        return out

    return write, read


def _width(site: Site) -> int:
    assert site.rows is not None
    return site.rows.groups * site.rows.width


def _rows(site: Site) -> Tensor:
    """Which rows of the whole layer's outputs a part is."""
    assert site.rows is not None
    return site.rows.of_outputs(torch.arange(_width(site)))


def _weight(module: nn.Module) -> Tensor:
    """A layer's weight as (d_out d_in)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().float().T if isinstance(module, Conv1D) else weight.detach().float()


WORDS = PeftWords(form, read)
