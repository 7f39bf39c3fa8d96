"""Which layers a PEFT adapter acts on: its file's against its config's, and the words of ours that mean them."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from graftlm.core.errors import UserError
from graftlm.methods._peft import placed, relative
from graftlm.sites import ROLES, Sites

LANGUAGE = ("CAUSAL_LM", "SEQ_2_SEQ_LM")


def as_targeted(body: Mapping[str, Any], found: Mapping[str, Any], sites: Sites) -> None:
    """Refuses a file whose layers are not those that its config names in this model."""
    here = {site.module for site in (*sites.all, *sites.others) if site.kind in ("linear", "embedding")}
    places = {path: placed(path, sites) for path in found}
    strange = sorted(path for path, module in places.items() if module not in here)
    if strange:
        raise UserError(
            f"the adapter acts on {strange[0]}, which is no layer of this {sites.family} model that can be trained "
            f"(it has {', '.join(sorted(module.removeprefix(sites.prefix) for module in here)[:3])}, …)"
        )
    targets = body.get("target_modules")
    if not targets or targets == "all-linear":
        return
    there = {path: path.removesuffix(relative(path, sites)) for path, module in places.items() if path != module}
    inside = [module for module in here if module.startswith(sites.prefix)]
    prefix = next(iter(there.values()), sites.prefix)
    paths = {f"{prefix}{module.removeprefix(sites.prefix)}" for module in inside}
    outside = here.difference(inside)
    if body.get("task_type") in LANGUAGE or outside & found.keys():  # else theirs may be a model without a head
        paths |= outside
    named_here = {path for path in paths if _targeted(body, path)}
    if body.get("task_type") != "SEQ_CLS" or sites.poolers & sites.idle:  # then theirs may be a model without a pooler
        named_here -= {path for path in named_here - found.keys() if placed(path, sites) in sites.poolers}
    if body.get("ensure_weight_tying"):  # PEFT acts on both sides of a tied embedding though one is named
        ends = {site.module for site in sites.all if site.role in ("embedding", "lm_head")}
        named_here |= {path for path in found if places[path] in ends}
    lost = sorted(named_here ^ found.keys())
    if lost:
        kind = "but the file has tensors for it" if lost[0] in found else "but the file has no tensors for it"
        said = "does not name" if lost[0] in found else "names"
        raise UserError(f"target_modules in adapter_config.json {said} {lost[0]}, {kind}")


def _targeted(body: Mapping[str, Any], path: str) -> bool:
    """PEFT's own rule."""
    excluded, targets = body.get("exclude_modules"), body["target_modules"]
    if excluded and named(excluded, path):
        return False
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in body.get("modules_to_save") or ()):
        return False
    if not named(targets, path):
        return False
    layers = body.get("layers_to_transform")
    if isinstance(targets, str) or path in targets or layers is None or layers == []:
        return True
    patterns = body.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    regexes = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    numbers = (re.match(regex, path) for regex in regexes)
    number = next((int(match[1]) for match in numbers if match), None)
    return number is not None and number in ([layers] if isinstance(layers, int) else layers)


def named(words: str | Collection[str], path: str) -> bool:
    if isinstance(words, str):
        return re.fullmatch(words, path) is not None
    return path in words or any(path.endswith(f".{word}") for word in words)


def words(paths: Collection[str], sites: Sites) -> tuple[str, ...]:
    """The shortest words of ours that mean just these whole layers of the model: roles, names, or paths."""
    paths = set(paths)
    wanted = {path.removeprefix(sites.prefix) for path in paths}
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
