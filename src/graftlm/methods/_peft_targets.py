"""Which layers a PEFT adapter acts on: its file's against its config's, and the words of ours that mean them."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from graftlm.core.errors import UserError
from graftlm.methods._peft import relative
from graftlm.sites import ROLES, Sites


def as_targeted(body: Mapping[str, Any], found: Mapping[str, Any], sites: Sites) -> None:
    """Refuses a file whose layers are not those that its config names in this model."""
    here = {site.module.removeprefix(sites.prefix) for site in sites.all if site.kind in ("linear", "embedding")}
    strange = sorted(path for path in found if relative(path, sites) not in here)
    if strange:
        raise UserError(
            f"the adapter acts on {strange[0]}, which is no layer of this {sites.family} model that can be trained "
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
    if excluded and named(excluded, path):
        return False
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in body.get("modules_to_save") or ()):
        return False
    if not named(targets, path):
        return False
    layers = body.get("layers_to_transform")
    if isinstance(targets, str) or layers is None or layers == []:
        return True
    patterns = body.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path) for pattern in patterns)
    number = next((int(match[1]) for match in numbers if match), None)
    return number is not None and number in ([layers] if isinstance(layers, int) else layers)


def named(words: str | Collection[str], path: str) -> bool:
    if isinstance(words, str):
        return re.fullmatch(words, path) is not None
    return path in words or any(path.endswith(f".{word}") for word in words)


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
