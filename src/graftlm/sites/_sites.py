"""Sites: the places of one model where a method may act, found by its family's table or by structure."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import UserError, unknown
from graftlm.sites._finding import architecture_of, backbone_of, blocks_of, by_structure, by_table, outside
from graftlm.sites._mixing import mixing, reads_padding
from graftlm.sites._site import Attention, Site, is_linear, layer_site
from graftlm.sites._table import ROLES, SPANS, STACKS, Head
from graftlm.sites._view import frozen_weight

CLASSIFIERS = ("classifier", "score")  # layers of a task's own, which runs store as heads


class Sites:
    """The sites of one model (which may lie on the meta device). `missing`: parameters that its checkpoint lacks.

    Errors name what was asked and the nearest that this model has.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, missing: Collection[str] = ()):
        self.model = model
        self.missing = missing
        self.tokenizer = tokenizer
        self.config: Any = getattr(model, "config", None)
        self.family = str(getattr(self.config, "model_type", type(model).__name__))
        self.prefix, self.backbone = backbone_of(model)
        self.table = architecture_of(self.family, self.config)

    @property
    def notice(self) -> str | None:
        """What a user should know about how the sites were found."""
        if self.table is not None:
            return None
        said = (
            f'no table for the architecture "{self.family}": found {len(self.all)} sites by structure '
            f"(layers inside {self.depth} repeated blocks); roles stand for every linear layer there"
        )
        return f"{said}; it reads padding, so a text's answer depends on its batch" if self.reads_padding else said

    @cached_property
    def depth(self) -> int:
        """How many repeated blocks a stack of the model has."""
        return max(len(paths) for paths in self.stacks.values())

    @cached_property
    def width(self) -> int:
        """The width of the hidden states that come out of the model."""
        text = self.config.get_text_config()
        return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)

    @cached_property
    def vocabulary(self) -> int:
        """The rows of the input embedding; ids at and above it are virtual tokens."""
        return int(self.embedding().weight.shape[0])

    @property
    def words(self) -> int:
        """The words that the LM head knows, where there is one; some heads have rows that no word has."""
        layer: Any = self.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        return int(layer.weight.shape[0])

    def embedding(self) -> nn.Embedding:
        """The embedding that reads a text's ids: the encoder's own, where there is an encoder."""
        if self.table is not None:
            stack = next(iter(self.table.stacks.values()))
            return self.backbone.get_submodule(stack.model["embedding"])  # pyright: ignore[reportReturnType]
        reader = self.backbone.get_submodule("encoder") if self.encoder_decoder else self.model
        return reader.get_input_embeddings()  # pyright: ignore[reportCallIssue]

    @property
    def embedding_scale(self) -> float:
        """By what the family multiplies what its input embedding looks up."""
        layer = self.embedding()
        return float(getattr(layer, "scalar_embed_scale", getattr(layer, "embed_scale", 1.0)))  # first: not a tensor

    @property
    def positions(self) -> int | None:
        """How many tokens have positions, or None where there is no limit that the model states."""
        name = self.table.positions if self.table else "max_position_embeddings"
        limit = None if name is None else getattr(self.config, name, None)
        return None if limit is None or limit < 0 else limit - self.position_offset  # XLNet says -1 for no limit

    @property
    def position_offset(self) -> int:
        """The position of a text's first token; without a table, where the model's padding has one of its own."""
        if self.table is not None:
            return self.table.position_offset
        padding = (
            getattr(module, "padding_idx", None)
            for path, module in self.backbone.named_modules()
            if path.endswith("position_embeddings")
        )
        return next((place + 1 for place in padding if place is not None), 0)

    @property
    def encoder_decoder(self) -> bool:
        return len(self.stacks) > 1

    @property
    def places_tokens(self) -> bool:
        """Whether positions may be given to the model; where they start is known of a family with a table only."""
        return self.table is not None and self.positions is not None and not self.encoder_decoder

    @property
    def moves_tokens(self) -> bool:
        """Whether real tokens may start elsewhere than where the model puts them."""
        return self.table is not None and self.positions is not None

    @cached_property
    def mixing(self) -> frozenset[str]:
        """The layers that do not keep texts apart; a family with a table has none."""
        return mixing(self) if self.table is None else frozenset()

    @cached_property
    def reads_padding(self) -> bool:
        """Whether texts that stand beside longer ones have other states; not known of a model without weights."""
        return self.table is None and self.model.device.type != "meta" and reads_padding(self)

    @property
    def head(self) -> Head | None:
        return self.table.head if self.table else None

    @cached_property
    def all(self) -> tuple[Site, ...]:
        """Every site of the model, in the order of the model, layers first to last, then spans."""
        modules = dict(self.model.named_modules())
        if self.table is None:
            return tuple(by_structure(modules, self.stacks))
        width = int(self.config.get_text_config().hidden_size)
        return tuple(by_table(self.table, modules, self.stacks, self.prefix, width))

    @cached_property
    def others(self) -> tuple[Site, ...]:
        """Linear layers that no role names, such as the first of an encoder's LM head; none without a table."""
        known = {site.module for site in self.all}
        heads = [name for name in CLASSIFIERS if hasattr(self.model, name)]
        output = getattr(self.model, "get_output_embeddings", lambda: None)()
        return tuple(
            layer_site(path, None, path, module)
            for path, module in (self.model.named_modules() if self.table is not None else ())
            if is_linear(module) and path not in known and module is not output and path.split(".")[0] not in heads
        )

    def with_roles(self, roles: Iterable[str]) -> list[Site]:
        """The sites of some roles; a role that this model lacks is refused by name."""
        wanted = list(roles)
        for role in wanted:
            if not is_role(role):
                raise unknown("site", role, ROLES + SPANS)
        found = [site for site in self.all if any(site.means(role) for role in wanted)]
        missing = [role for role in wanted if not any(site.means(role) for site in found)]
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
            if is_role(targets):
                return self.with_roles([targets])
            try:
                pattern = re.compile(targets)
            except re.error as error:
                raise UserError(f'sites "{targets}" is neither a role nor a regex: {error}') from None
            found = self._modules(lambda path: pattern.fullmatch(path) is not None)
            if not found:
                raise unknown("site", targets, self._words())
            return found
        if self.table is None and targets and all(is_role(name) for name in targets):
            return self.linear()
        roles = [name for name in targets if is_role(name)]
        found = self.with_roles(roles) if roles else []
        for name in targets:
            if is_role(name):
                continue
            named = self._modules(lambda path, name=name: path == name or path.endswith(f".{name}"))
            if not named:
                raise unknown("site", name, self._words())
            found += [site for site in named if site not in found]
        if not found:
            raise UserError("sites is empty; name roles, modules, a regex or all-linear")
        return found

    def linear(self) -> list[Site]:
        """Every linear layer, as PEFT's "all-linear": not the output layer, nor an idle one.

        Of a model without a table, those inside its blocks.
        """
        found = [
            site
            for site in (*self.all, *self.others)
            if site.kind == "linear" and site.role != "lm_head" and site.module not in self.idle
        ]
        if not found:
            raise UserError(f'"{self.family}" has no linear layer inside repeated blocks; full or head would work')
        return found

    @cached_property
    def idle(self) -> frozenset[str]:
        """Layers of the base that no task reads: a pooler that no classifier has, and what the checkpoint lacks.

        A head that needs the latter trains it as its own.
        """
        lacking = {self.prefix + name.rpartition(".")[0] for name in self.missing}
        read = self.head is not None and not self.head.fresh and self.head.dense is not None
        return frozenset(lacking.union(() if read else self.poolers))

    @property
    def poolers(self) -> set[str]:
        """The pooler, which some families' classes with a head do not have."""
        return {site.module for site in self.all if site.role == "pooler"}

    def norms(self) -> list[Site]:
        return [site for site in self.all if site.kind == "norm"]

    def biased(self) -> list[Site]:
        """Every layer of the backbone that has a bias, without a table those outside of its blocks too."""
        modules = {self.prefix + path: module for path, module in self.backbone.named_modules()}
        around = () if self.table is not None or not self.blocks else outside(modules, self.blocks, self.prefix)
        return [site for site in (*self.all, *around) if site.has_bias and site.role != "lm_head"]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The kinds of attention: "" in one stack, else encoder, decoder and cross."""
        if self.table is None:
            raise UserError(f'"{self.family}" has no table, so its attention is not known; methods on layers work')
        found: list[str] = []
        for name, stack in self.table.stacks.items():
            found += [name] + (["cross"] if stack.cross else [])
        return tuple(found)

    def attentions(self, part: str = "") -> list[Attention]:
        """The attention of each layer, first to last, of one part."""
        assert part in self.parts
        assert self.table is not None
        name = "decoder" if part == "cross" else part
        stack = self.table.stacks[name]
        path = stack.cross if part == "cross" else stack.attention
        text = self.config.get_text_config()
        heads = getattr(text, f"{name}_attention_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or text.hidden_size // heads
        blocks = self.stacks[name]
        return [
            Attention(
                part,
                layer,
                f"{blocks[block]}.{path}",
                getattr(text, "num_key_value_heads", None) or heads,
                width,
            )
            for layer, block in enumerate(stack.calls or range(len(blocks)))
        ]

    def query(self, attention: Attention) -> Site:
        """Where an attention's queries are made, of what it reads."""
        role = "cross.query" if attention.part == "cross" else "attention.query"
        inside = f"{attention.module}."
        return next(site for site in self.all if site.role == role and site.module.startswith(inside))

    def weight(self, site: Site) -> Callable[[], Tensor]:
        """Gives a site's frozen rows (d_out d_in) when it is called, wherever the layer is by then."""
        module = self.model.get_submodule(site.module)
        return lambda: frozen_weight(module, site.rows).detach()

    @property
    def class_prefix(self) -> str:
        """What stands before these paths in the family's classes with a head: "bert."; "" where this is one (T5's)."""
        whole = self.prefix or getattr(self.model, "get_output_embeddings", lambda: None)() is not None
        return "" if whole else f"{getattr(self.model, 'base_model_prefix', '')}."

    def transposed(self, site: Site) -> bool:
        """Whether a layer keeps its weight as (d_in d_out), as `Conv1D` does."""
        return isinstance(self.model.get_submodule(site.module), Conv1D)

    def module_names(self, sites: Sequence[Site]) -> list[str]:
        """The shortest list of names that means just these layers where names match the end of a path."""
        wanted = {site.module for site in sites}
        every = [path for path, _ in self.model.named_modules()]
        for parts in (1, 2, 3, 4):
            names = sorted({".".join(path.split(".")[-parts:]) for path in wanted})
            if {
                path for path in every if path in names or path.endswith(tuple(f".{name}" for name in names))
            } == wanted:
                return names
        return sorted(self.class_prefix + path for path in wanted)

    def _words(self) -> set[str]:
        return {site.module.rsplit(".", 1)[-1] for site in self.all if site.kind != "span"} | set(ROLES)

    def _modules(self, matches: Callable[[str], bool]) -> list[Site]:
        """Whole modules (a fused layer is one site) whose paths, with or without the backbone's prefix, match."""
        found: dict[str, Site] = {}
        for site in (*self.all, *self.others):
            short = site.module.removeprefix(self.prefix)
            if site.kind == "span" or not (matches(site.module) or matches(short)):
                continue
            if site.rows is not None:
                module = self.model.get_submodule(site.module)
                block = self.stacks[site.stack][site.layer or 0]
                role = f"fused:{site.module.removeprefix(block + '.')}"
                site = layer_site(role, site.layer, site.module, module, stack=site.stack)
            found.setdefault(site.module, site)
        return list(found.values())

    @cached_property
    def stacks(self) -> dict[str, list[str]]:
        """The paths of the repeated blocks of each stack, first to last; half of an encoder-decoder is refused."""
        try:
            return blocks_of(self.table, self.backbone, self.prefix)
        except AttributeError as error:
            raise UserError(
                f'a {type(self.model).__name__} is not all of what the table of "{self.family}" names: {error}; '
                "the whole model, as AutoModel loads it, would work"
            ) from None

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """Which block each layer is, of the stacks whose layers share blocks."""
        return {name: stack.calls for name, stack in self.table.stacks.items() if stack.calls} if self.table else {}

    @property
    def blocks(self) -> list[str]:
        """The paths of all repeated blocks, the encoder's before the decoder's."""
        return [path for paths in self.stacks.values() for path in paths]


def is_role(word: str) -> bool:
    stack, _, rest = word.partition(".")
    return word in ROLES + SPANS or (stack in STACKS and rest in ROLES + SPANS)
