"""Reading PEFT's LoRA: which layers the file's tensors are for, and how to say them in our words.

The tensors decide, and must agree with `target_modules`, since PEFT itself drops tensors that it does not expect and
leaves those that are missing at their initial values, with a warning at most. A fused layer is one whole site.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import UNION, acts, kept, parse
from graftlm.methods._peft import Theirs, base_path, heed, placed
from graftlm.methods._peft_biases import base_bias, biases_of, changes
from graftlm.methods._peft_starts import STARTS, beyond_start
from graftlm.methods._peft_targets import as_targeted, words
from graftlm.sites import Branch, Sites, Tensors

KEY = re.compile(
    r"base_model\.model\.(?P<path>.+)\."
    r"(?:(?P<down>lora_A\.weight|lora_embedding_A)|(?P<up>lora_B\.weight|lora_embedding_B)"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.weight)?)|(?P<bias>lora_B\.bias))"
)
READ = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "bias",
    "lora_bias",
    "init_lora_weights",
    "ensure_weight_tying",
)
HARMLESS = {
    "runtime_config": {"ephemeral_gpu_offload": False},
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
_OTHER = "it computes something else than LoRA; train anew with --method lora"
REFUSED = {
    "trainable_token_indices": "trained rows of the embedding are no LoRA; lora on the embedding is",
    "target_parameters": "ours acts on layers, not on bare parameters (experts); train on the linear layers",
    "layer_replication": "the model would have other layers; write that model out first",
    "alora_invocation_tokens": _OTHER,
    "use_qalora": _OTHER,
    "use_bdlora": _OTHER,
    "velora_config": _OTHER,
    "monteclora_config": _OTHER,
    "arrow_config": _OTHER,
    "kasa_config": _OTHER,
    "megatron_config": "its layers are split over machines; gather them first",
}
BIASES = ("none", "all", "lora_only")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # these leave the base's weights as they are


def read(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    """A LORA adapter: our config, with what its file does not say alike for all layers as patterns."""
    notes = heed(body, READ, HARMLESS, REFUSED)
    _plain(body)
    found, rest = _sorted_out(tensors)
    if not found:
        raise UserError("the adapter's file holds no lora_A and lora_B")
    as_targeted(body, found, sites)
    more = [name for key, name in (("use_dora", "magnitude"), ("lora_bias", "bias")) if body.get(key)]
    for path, own in found.items():
        missing = {"down", "up", *more} ^ own.keys()
        if missing:
            raise UserError(f"{path} lacks its {missing.pop()} half, or has one too many, in the adapter's file")
    config = parse("lora", _options(body, found, sites))
    branches = {branch.site.module: branch for branch in acts(config, sites) if isinstance(branch, Branch)}
    start = body.get("init_lora_weights")
    if start in STARTS:
        config = kept(config.model_copy(update={"init": "pissa"}))
    ours: dict[str, Tensor] = {}
    added: dict[str, Tensor] = {}
    for path, own in found.items():
        branch = branches[placed(path, sites)]
        site, scale = branch.site, branch.constants["scale"]
        if start in STARTS:
            own = beyond_start(start, own, sites.model.get_submodule(site.module), scale)
        ours |= {f"{site.name}.{name}": tensor for name, tensor in own.items() if name != "bias"}
        if "bias" in own:
            added[site.module] = scale * own["bias"]
    kind = body.get("bias", "none")
    biases, rest = biases_of(kind, rest, list(branches), sites) if kind != "none" else ({}, rest)
    for module, bias in added.items():
        site = branches[module].site
        if not site.has_bias:
            raise UserError(
                f"lora_bias = True in adapter_config.json cannot be read: {module} has no bias of its own to add it to"
            )
        biases[module] = biases.get(module, base_bias(site, sites)) + bias
    if not biases:
        return Theirs(config, ours, rest, notes)
    trained = parse("bitfit", {"sites": _biased(biases, sites)})
    places = [branch.site for branch in acts(trained, sites) if isinstance(branch, Branch)]
    both = [{"name": part.method, **part.model_dump(mode="json")} for part in (config, trained)]
    return Theirs(parse(UNION, {"parts": both}), ours | changes(places, biases, sites), rest, notes)


def _biased(biases: Mapping[str, Tensor], sites: Sites) -> str | tuple[str, ...]:
    """Our words for the layers whose biases these are."""
    if biases.keys() == {site.module for site in sites.biased()} - sites.idle:
        return "all"
    return words(biases.keys(), sites)


def _plain(body: Mapping[str, Any]) -> None:
    if body.get("bias", "none") not in BIASES:
        raise UserError(f'bias = "{body["bias"]}" in adapter_config.json is none of {", ".join(BIASES)}')
    start = body.get("init_lora_weights", True)
    if start not in (*PLAIN_STARTS, *STARTS) or (start in STARTS and body.get("use_dora")):
        raise UserError(
            f'init_lora_weights = "{start}" in adapter_config.json cannot be read: it changes the base\'s own weights; '
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )
    if body.get("lora_bias") and body.get("use_dora"):
        raise UserError("lora_bias and use_dora in adapter_config.json are not for one adapter, in PEFT either")


def _sorted_out(tensors: Tensors) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Each layer's tensors by our names, and the others by the path of the parameter that they are."""
    found: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            rest[base_path(key)] = tensor
            continue
        name = next(name for name in ("down", "up", "magnitude", "bias") if match[name])
        found.setdefault(match["path"], {})[name] = tensor
    return found, rest


def _options(body: Mapping[str, Any], found: Mapping[str, Mapping[str, Tensor]], sites: Sites) -> dict[str, Any]:
    """Our options. The scale of a layer is lora_alpha / r, or / √r; ranks are checked against the tensors."""
    rank, alpha = int(body.get("r", 8)), float(body.get("lora_alpha", 8))
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, own in found.items():
        place = re.escape(placed(path, sites).removeprefix(sites.prefix))
        r = int(_pattern(body.get("rank_pattern"), path, rank))
        a = float(_pattern(body.get("alpha_pattern"), path, alpha))
        if own["down"].shape[0] != r:
            raise UserError(f"{path} has rank {own['down'].shape[0]} in the file, but {r} in adapter_config.json")
        ranks |= {place: r} if r != rank else {}
        alphas |= {place: a} if a != alpha else {}
    options: dict[str, Any] = {
        "rank": rank,
        "alpha": alpha,
        "dropout": float(body.get("lora_dropout", 0)),
        "sites": words({placed(path, sites) for path in found}, sites),
    }
    more = {"rank_pattern": ranks, "alpha_pattern": alphas}
    more |= {"rslora": bool(body.get("use_rslora")), "dora": bool(body.get("use_dora"))}
    return options | {name: value for name, value in more.items() if value}


def _pattern(patterns: Mapping[str, Any] | None, path: str, default: float) -> float:
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)), default)
