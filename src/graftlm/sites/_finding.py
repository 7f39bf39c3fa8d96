"""Finding sites: what a family's table says of one model, or without a table what the model's structure shows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from graftlm.core import registry
from graftlm.sites._site import Site, is_linear, is_norm, layer_site
from graftlm.sites._table import STACKS, Architecture, Fused, Span, Stack

PACKAGE = "graftlm.sites.architectures"
Modules = Mapping[str, nn.Module]


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The model without its head, and the path prefix ("" or "bert.") under which it lies."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    inner = getattr(model, prefix, None) if prefix else None
    return (f"{prefix}.", inner) if isinstance(inner, nn.Module) else ("", model)


def architecture_of(model_type: str, config: Any) -> Architecture | None:
    """The table of a family (which may depend on its config), or None where there is none."""
    name = model_type.replace("_", "-")
    if name not in registry.modules(PACKAGE):
        return None
    module = registry.load(PACKAGE, "architecture", name)
    made = getattr(module, "architecture", None)
    return module.ARCHITECTURE if made is None else made(config)


def blocks_of(table: Architecture | None, backbone: nn.Module, prefix: str) -> dict[str, list[str]]:
    """The paths of the repeated blocks of each stack, first to last; by structure the longest list of equal blocks."""
    if table is None:
        both = bool(getattr(getattr(backbone, "config", None), "is_encoder_decoder", False))
        names = STACKS if both and all(hasattr(backbone, name) for name in STACKS) else ("",)
        return {name: _repeated(backbone.get_submodule(name), f"{prefix}{name}." if name else prefix) for name in names}
    found: dict[str, list[str]] = {}
    for name, stack in table.stacks.items():
        blocks = list(backbone.get_submodule(stack.blocks).children())
        found[name] = [f"{prefix}{stack.blocks}.{index}" for index in range(len(blocks))]
    return found


def _repeated(tower: nn.Module, prefix: str) -> list[str]:
    longest: list[str] = []
    for path, module in tower.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > len(longest):
            kinds = {type(child) for child in module}
            if len(kinds) == 1 and any(is_linear(inner) for inner in module.modules()):
                longest = [f"{prefix}{path}.{index}" for index in range(len(module))]
    return longest


def by_table(
    table: Architecture, modules: Modules, stacks: Mapping[str, Sequence[str]], prefix: str, width: int
) -> Iterable[Site]:
    """The sites of a model with a table, in the order of the model, layers first to last, then spans of `width`."""
    for name, stack in table.stacks.items():
        before = {role: path for role, path in stack.model.items() if role.startswith(("embedding", "norm.emb"))}
        after = {role: path for role, path in stack.model.items() if role not in before}
        yield from _around(name, before, modules, prefix)
        yield from _inside(name, stack, stacks[name], modules)
        yield from _around(name, after, modules, prefix)
    for path in table.lm_heads:
        if path in modules:
            yield layer_site("lm_head", None, path, modules[path])
            break
    for name, stack in table.stacks.items():
        for index, block in enumerate(stacks[name]):
            for role, span in stack.spans.items():
                full = Span(
                    entry=f"{block}.{span.entry}",
                    exit=f"{block}.{span.exit}",
                    residual=f"{block}.{span.residual}",
                    norm=f"{block}.{span.norm}" if span.norm else None,
                )
                yield Site(role, index, full.exit, "span", width, width, False, span=full, stack=name)


def _around(stack: str, paths: Mapping[str, str], modules: Modules, prefix: str) -> Iterable[Site]:
    for role, path in paths.items():
        if _has_weight(modules.get(prefix + path)):
            yield layer_site(role, None, prefix + path, modules[prefix + path], stack=stack)


def _inside(name: str, stack: Stack, blocks: Sequence[str], modules: Modules) -> Iterable[Site]:
    for index, block in enumerate(blocks):
        for role, place in stack.layer.items():
            fused = place if isinstance(place, Fused) else None
            path = f"{block}.{fused.module if fused else place}"
            if _has_weight(modules.get(path)):
                yield layer_site(role, index, path, modules[path], fused, name)


def _has_weight(module: nn.Module | None) -> bool:
    """A norm may be left out of a layer, or have neither scale nor shift."""
    return getattr(module, "weight", None) is not None


def by_structure(modules: Modules, stacks: Mapping[str, Sequence[str]]) -> Iterable[Site]:
    """Linear and norm layers inside the repeated blocks; a role is the module's own name."""
    for name, blocks in stacks.items():
        for index, block in enumerate(blocks):
            for path, module in modules[block].named_modules():
                if (is_linear(module) or is_norm(module)) and _has_weight(module):
                    yield layer_site(path, index, f"{block}.{path}", module, stack=name)


def outside(modules: Modules, blocks: Sequence[str], prefix: str) -> Iterable[Site]:
    """The linear and norm layers among `modules` that stand in none of the blocks, such as a pooler."""
    inside = tuple(f"{block}." for block in blocks)
    for path, module in modules.items():
        if (is_linear(module) or is_norm(module)) and _has_weight(module) and not path.startswith(inside):
            yield layer_site(path.removeprefix(prefix), None, path, module)
