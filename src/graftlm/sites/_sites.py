"""Sites: the places of one model where a method may act, found by its family's table or by structure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.core import registry
from graftlm.core.errors import UserError, unknown
from graftlm.sites._table import ROLES, SPANS, Architecture, Fused, Head, Span

Kind = Literal["linear", "norm", "embedding", "span"]
PACKAGE = "graftlm.sites.architectures"


@dataclass(frozen=True)
class Rows:
    """Which outputs of a fused layer: the width seen as (groups, width of a group), `start:stop` of each group."""

    groups: int
    width: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.groups * (self.stop - self.start)

    def of_outputs(self, y: Tensor) -> Tensor:
        """The rows' part of outputs (…, groups · width) -> (…, count)."""
        if self.groups == 1:
            return y[..., self.start : self.stop]
        return y.unflatten(-1, (self.groups, self.width))[..., self.start : self.stop].flatten(-2)


@dataclass(frozen=True)
class Site:
    """One place. `module` is a path in the model; `rows` picks a part of a fused layer; `span` is set for spans."""

    role: str
    layer: int | None
    module: str
    kind: Kind
    d_in: int
    d_out: int
    has_bias: bool
    rows: Rows | None = None
    span: Span | None = None

    @property
    def name(self) -> str:
        """The site's name in our files, the same in every architecture: `3.attention.query`."""
        return self.role if self.layer is None else f"{self.layer}.{self.role}"


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The model without its head, and the path prefix ("" or "bert.") under which it lies."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    inner = getattr(model, prefix, None) if prefix else None
    return (f"{prefix}.", inner) if isinstance(inner, nn.Module) else ("", model)


def architecture_of(model_type: str) -> Architecture | None:
    """The table of a family, or None where there is none."""
    name = model_type.replace("_", "-")
    if name not in registry.modules(PACKAGE):
        return None
    return registry.load(PACKAGE, "architecture", name).ARCHITECTURE


class Sites:
    """The sites of one model (which may lie on the meta device).

    Errors name what was asked and the nearest that this model has.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None):
        self.model = model
        self.tokenizer = tokenizer
        self.config: Any = getattr(model, "config", None)
        self.family = str(getattr(self.config, "model_type", type(model).__name__))
        self.prefix, self.backbone = backbone_of(model)
        self.table = architecture_of(self.family)

    @property
    def notice(self) -> str | None:
        """What a user should know about how the sites were found."""
        if self.table is not None:
            return None
        return (
            f'no table for the architecture "{self.family}": found {len(self.all)} sites by structure '
            f"(layers inside {self.depth} repeated blocks); roles stand for every linear layer there"
        )

    @cached_property
    def depth(self) -> int:
        """How many repeated blocks the model has."""
        return len(self.blocks)

    @cached_property
    def width(self) -> int:
        """The width of the hidden states."""
        return int(self.config.get_text_config().hidden_size)

    @cached_property
    def vocabulary(self) -> int:
        """The rows of the input embedding; ids at and above it are virtual tokens."""
        return int(self.embedding().num_embeddings)

    def embedding(self) -> nn.Embedding:
        return self.model.get_input_embeddings()  # pyright: ignore[reportCallIssue]

    @property
    def positions(self) -> int | None:
        """How many positions the model has, or None where it has no limit that it states."""
        name = self.table.positions if self.table else "max_position_embeddings"
        return None if name is None else getattr(self.config, name, None)

    @property
    def places_tokens(self) -> bool:
        """Whether positions may be given to the model; where they start is known of a family with a table only."""
        return self.table is not None and self.positions is not None

    @property
    def head(self) -> Head | None:
        return self.table.head if self.table else None

    @cached_property
    def all(self) -> tuple[Site, ...]:
        """Every site of the model, in the order of the model, layers first to last, then spans."""
        return tuple(self._by_table(self.table) if self.table else self._by_structure())

    def with_roles(self, roles: Iterable[str]) -> list[Site]:
        """The sites of some roles; a role that this model lacks is refused by name."""
        wanted = list(roles)
        for role in wanted:
            if role not in ROLES + SPANS:
                raise unknown("site", role, ROLES + SPANS)
        found = [site for site in self.all if site.role in wanted]
        missing = [role for role in wanted if role not in {site.role for site in found}]
        if missing:
            has = ", ".join(sorted({site.role for site in self.all}))
            raise UserError(f'{self.family} has no site "{missing[0]}"; it has {has}')
        return found

    def select(self, targets: str | Sequence[str]) -> list[Site]:
        """The layers that a user's words mean: roles, "all-linear", module names, or a regex over module paths.

        A list of names matches a module's path or the end of it, as PEFT's `target_modules` does; a plain string
        that is no role is a regex that must match a whole path. Roles asked of a model without a table mean every
        linear layer in its blocks.
        """
        if isinstance(targets, str):
            if targets == "all-linear":
                return self.linear()
            if targets in ROLES:
                return self.with_roles([targets])
            try:
                pattern = re.compile(targets)
            except re.error as error:
                raise UserError(f'sites "{targets}" is neither a role nor a regex: {error}') from None
            found = self._modules(lambda path: pattern.fullmatch(path) is not None)
            if not found:
                raise unknown("site", targets, self._words())
            return found
        if self.table is None and targets and all(name in ROLES for name in targets):
            return self.linear()
        roles = [name for name in targets if name in ROLES]
        found = self.with_roles(roles) if roles else []
        for name in targets:
            if name in ROLES:
                continue
            named = self._modules(lambda path, name=name: path == name or path.endswith(f".{name}"))
            if not named:
                raise unknown("site", name, self._words())
            found += [site for site in named if site not in found]
        if not found:
            raise UserError("sites is empty; name roles, modules, a regex or all-linear")
        return found

    def linear(self) -> list[Site]:
        """Every linear layer inside the repeated blocks."""
        return [site for site in self.all if site.kind == "linear" and site.layer is not None]

    def norms(self) -> list[Site]:
        return [site for site in self.all if site.kind == "norm"]

    def biased(self) -> list[Site]:
        """Every layer of the backbone that has a bias."""
        return [site for site in self.all if site.has_bias and site.role != "lm_head"]

    def attention_path(self, layer: int) -> str:
        """The path of a block's attention module."""
        if self.table is None:
            raise UserError(f'"{self.family}" has no table, so its attention is not known; methods on layers work')
        return f"{self.prefix}{self.table.blocks}.{layer}.{self.table.attention}"

    @property
    def class_prefix(self) -> str:
        """What stands before a backbone's paths in the family's classes with a head: "bert.", "model."."""
        return "" if self.prefix else f"{getattr(self.model, 'base_model_prefix', '')}."

    def transposed(self, site: Site) -> bool:
        """Whether a layer keeps its weight as (d_in d_out), as `Conv1D` does."""
        return isinstance(self.model.get_submodule(site.module), Conv1D)

    def module_names(self, sites: Sequence[Site]) -> list[str]:
        """The shortest list of names that means just these layers where names match the end of a path."""
        wanted = {site.module for site in sites}
        linear = [path for path, module in self.model.named_modules() if is_linear(module)]
        for parts in (1, 2, 3, 4):
            names = sorted({".".join(path.split(".")[-parts:]) for path in wanted})
            if {path for path in linear if path.endswith(tuple(f".{name}" for name in names))} == wanted:
                return names
        return sorted(self.class_prefix + path for path in wanted)

    def _words(self) -> set[str]:
        return {site.module.rsplit(".", 1)[-1] for site in self.all if site.kind != "span"} | set(ROLES)

    def _modules(self, matches: Any) -> list[Site]:
        """Whole modules (a fused layer is one site) whose paths, with or without the backbone's prefix, match."""
        found: dict[str, Site] = {}
        for site in self.all:
            short = site.module.removeprefix(self.prefix)
            if site.kind == "span" or not (matches(site.module) or matches(short)):
                continue
            if site.rows is not None:
                module = self.model.get_submodule(site.module)
                site = _layer_site(f"fused:{short.split('.', 2)[-1]}", site.layer, site.module, module)
            found.setdefault(site.module, site)
        return list(found.values())

    @cached_property
    def blocks(self) -> list[str]:
        """The paths of the repeated blocks, first to last."""
        if self.table is not None:
            blocks = self.backbone.get_submodule(self.table.blocks)
            return [f"{self.prefix}{self.table.blocks}.{index}" for index in range(len(list(blocks.children())))]
        longest: list[str] = []
        for path, module in self.backbone.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) > len(longest):
                kinds = {type(child) for child in module}
                if len(kinds) == 1 and any(is_linear(inner) for inner in module.modules()):
                    longest = [f"{self.prefix}{path}.{index}" for index in range(len(module))]
        return longest

    def _by_table(self, table: Architecture) -> Iterable[Site]:
        modules = dict(self.model.named_modules())
        before = [(role, path) for role, path in table.model.items() if role.startswith(("embedding", "norm.emb"))]
        after = [(role, path) for role, path in table.model.items() if (role, path) not in before]
        for role, path in before:
            if self.prefix + path in modules:
                yield _layer_site(role, None, self.prefix + path, modules[self.prefix + path])
        for index, block in enumerate(self.blocks):
            for role, place in table.layer.items():
                path = f"{block}.{place.module if isinstance(place, Fused) else place}"
                if path in modules:
                    rows = self._rows(place, modules[path]) if isinstance(place, Fused) else None
                    yield _layer_site(role, index, path, modules[path], rows)
        for role, path in after:
            if self.prefix + path in modules:
                yield _layer_site(role, None, self.prefix + path, modules[self.prefix + path])
        for path in table.lm_heads:
            if path in modules:
                yield _layer_site("lm_head", None, path, modules[path])
                break
        for index, block in enumerate(self.blocks):
            for role, span in table.spans.items():
                full = Span(
                    entry=f"{block}.{span.entry}",
                    exit=f"{block}.{span.exit}",
                    residual=f"{block}.{span.residual}",
                    norm=f"{block}.{span.norm}" if span.norm else None,
                )
                yield Site(role, index, full.exit, "span", self.width, self.width, False, span=full)

    def _rows(self, place: Fused, module: nn.Module) -> Rows:
        groups = place.groups if isinstance(place.groups, int) else int(getattr(self.config, place.groups))
        width = _shape(module)[1] // groups
        part = width // place.parts
        return Rows(groups, width, place.part * part, (place.part + 1) * part)

    def _by_structure(self) -> Iterable[Site]:
        """Linear and norm layers inside the longest list of equal blocks; a role is the module's own name."""
        modules = dict(self.model.named_modules())
        for index, block in enumerate(self.blocks):
            for path, module in modules[block].named_modules():
                if is_linear(module) or is_norm(module):
                    yield _layer_site(path, index, f"{block}.{path}", module)


def _shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a layer."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dim() == 1:
        return weight.shape[0], weight.shape[0]
    if isinstance(module, (Conv1D, nn.Embedding)):
        return weight.shape[0], weight.shape[1]
    return weight.shape[1], weight.shape[0]


def _layer_site(role: str, layer: int | None, path: str, module: nn.Module, rows: Rows | None = None) -> Site:
    kind: Kind = "norm" if is_norm(module) else "embedding" if isinstance(module, nn.Embedding) else "linear"
    d_in, d_out = _shape(module)
    bias = getattr(module, "bias", None) is not None
    return Site(role, layer, path, kind, d_in, rows.count if rows else d_out, bias, rows)
