"""Reading PEFT's LoRA: which layers the file's tensors are for, and how to say them in our words.

The tensors decide, and must agree with `target_modules`, since PEFT itself drops tensors that it does not expect and
leaves those that are missing at their initial values, with a warning at most. A fused layer is one whole site.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import acts, config_class, parse
from graftlm.methods._peft import WHOLE, Theirs, heed, relative
from graftlm.sites import ROLES, Branch, Sites, Tensors

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
    "init_lora_weights",
)
HARMLESS = (
    "runtime_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
)
_OTHER = "it computes something else than LoRA; train anew with --method lora"
REFUSED = {
    "lora_bias": "ours has no bias of its own on lora_B; fold it into the model with PEFT's merge_and_unload",
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
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # these leave the base's weights as they are


def read(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    """A LORA adapter: our config, with what its file does not say alike for all layers as patterns."""
    notes = heed(body, READ, HARMLESS, REFUSED)
    _plain(body)
    found, rest = _sorted_out(tensors)
    if not found:
        raise UserError("the adapter's file holds no lora_A and lora_B")
    _as_targeted(body, found, sites)
    dora = bool(body.get("use_dora"))
    for path, own in found.items():
        missing = {"down", "up", *(["magnitude"] if dora else [])} ^ own.keys()
        if missing:
            raise UserError(f"{path} lacks its {missing.pop()} half, or has one too many, in the adapter's file")
    config = parse("lora", _options(body, found, sites))
    branches = {branch.site.module: branch for branch in acts(config, sites) if isinstance(branch, Branch)}
    ours: dict[str, Tensor] = {}
    for path, own in found.items():
        site = branches[sites.prefix + relative(path, sites)].site
        ours |= {f"{site.name}.{name}": tensor for name, tensor in own.items()}
    return Theirs(config, ours, rest, notes)


def _plain(body: Mapping[str, Any]) -> None:
    if body.get("bias", "none") != "none":
        raise UserError(
            f'bias = "{body["bias"]}" in adapter_config.json cannot be read: it trains biases beside LoRA, which lora '
            "does not; fold it into the model with PEFT's merge_and_unload, or train bitfit"
        )
    start = body.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise UserError(
            f'init_lora_weights = "{start}" in adapter_config.json cannot be read: it changes the base\'s own weights; '
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )


def _sorted_out(tensors: Tensors) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Each layer's tensors by our names, and the others by the path of the parameter that they are."""
    found: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            rest[key.removeprefix(WHOLE).replace(".base_layer.", ".")] = tensor
            continue
        name = next(name for name in ("down", "up", "magnitude", "bias") if match[name])
        found.setdefault(match["path"], {})[name] = tensor
    return found, rest


def _as_targeted(body: Mapping[str, Any], found: Mapping[str, Any], sites: Sites) -> None:
    """Refuses a file whose layers are not those that its config names in this model."""
    here = {site.module.removeprefix(sites.prefix) for site in sites.all if site.kind in ("linear", "embedding")}
    strange = sorted(path for path in found if relative(path, sites) not in here)
    if strange:
        raise UserError(
            f"the adapter acts on {strange[0]}, which is no layer of this {sites.family} model that lora can act on "
            f"(it has {', '.join(sorted(here)[:3])}, …)"
        )
    targets = body.get("target_modules")
    if not targets or targets == "all-linear":
        return
    prefix = next(iter(found)).removesuffix(relative(next(iter(found)), sites))
    wanted = {f"{prefix}{path}" for path in here if _targeted(body, f"{prefix}{path}")}
    lost = sorted(wanted ^ found.keys())
    if lost:
        kind = "but the file has no tensors for it" if lost[0] in wanted else "but the file has tensors for it"
        said = "names" if lost[0] in wanted else "does not name"
        raise UserError(f"target_modules in adapter_config.json {said} {lost[0]}, {kind}")


def _targeted(body: Mapping[str, Any], path: str) -> bool:
    """PEFT's own rule."""
    excluded, targets = body.get("exclude_modules"), body["target_modules"]
    if excluded and _named(excluded, path):
        return False
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in body.get("modules_to_save") or ()):
        return False
    if not _named(targets, path):
        return False
    layers = body.get("layers_to_transform")
    if isinstance(targets, str) or layers is None or layers == []:
        return True
    patterns = body.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path) for pattern in patterns)
    number = next((int(match[1]) for match in numbers if match), None)
    return number is not None and number in ([layers] if isinstance(layers, int) else layers)


def _named(words: str | Collection[str], path: str) -> bool:
    if isinstance(words, str):
        return re.fullmatch(words, path) is not None
    return path in words or any(path.endswith(f".{word}") for word in words)


def _options(body: Mapping[str, Any], found: Mapping[str, Mapping[str, Tensor]], sites: Sites) -> dict[str, Any]:
    """Our options. The scale of a layer is lora_alpha / r, or / √r; ranks are checked against the tensors."""
    rank, alpha = int(body.get("r", 8)), float(body.get("lora_alpha", 8))
    rooted, own_word = bool(body.get("use_rslora")), "rslora" in config_class("lora").model_fields
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, own in found.items():
        place = re.escape(relative(path, sites))
        r = int(_pattern(body.get("rank_pattern"), path, rank))
        a = float(_pattern(body.get("alpha_pattern"), path, alpha))
        if own["down"].shape[0] != r:
            raise UserError(f"{path} has rank {own['down'].shape[0]} in the file, but {r} in adapter_config.json")
        ranks |= {place: r} if r != rank else {}
        a = a * r**0.5 if rooted and not own_word else a
        alphas |= {place: a} if a != alpha else {}
    options: dict[str, Any] = {
        "rank": rank,
        "alpha": alpha,
        "dropout": float(body.get("lora_dropout", 0)),
        "sites": words({relative(path, sites) for path in found}, sites),
    }
    more = {"rank_pattern": ranks, "alpha_pattern": alphas, "rslora": rooted and own_word}
    more["dora"] = bool(body.get("use_dora"))
    return options | {name: value for name, value in more.items() if value}


def _pattern(patterns: Mapping[str, Any] | None, path: str, default: float) -> float:
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)), default)


def words(wanted: Collection[str], sites: Sites) -> tuple[str, ...]:
    """The shortest words of ours that mean just these whole layers of the backbone: roles, names, or paths."""
    paths = {sites.prefix + path for path in wanted}
    if sites.table is not None:
        inside = [site for site in sites.all if site.module in paths and site.rows is None]
        roles = [role for role in ROLES if any(site.role == role for site in inside)]
        if roles and _mean(roles, paths, sites):
            return tuple(roles)
    for parts in (1, 2, 3):
        names = sorted({".".join(path.split(".")[-parts:]) for path in wanted})
        if not set(names) & set(ROLES) and _mean(names, paths, sites):
            return tuple(names)
    return tuple(sorted(wanted))


def _mean(names: list[str], paths: set[str], sites: Sites) -> bool:
    found = sites.select(names)
    return {site.module for site in found} == paths and all(site.rows is None for site in found)
