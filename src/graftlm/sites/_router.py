"""The state that all hosts of one model share: the route in force, and what was computed once for this forward pass."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites._bank import Bank
from graftlm.sites._one_place import OnePlace
from graftlm.sites._route import Chunk, Route
from graftlm.sites._site import Site


@dataclass
class Derived:
    """A bank whose tensors are turned into others once a forward pass (a prefix from its MLP, a prompt's table)."""

    bank: Bank
    derive: Callable[[Mapping[str, Tensor]], Tensor]
    lengths: Tensor
    equal_lengths: bool
    from_input: Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None = None
    firsts: Tensor | None = None
    value: Tensor | None = None


@dataclass
class Router:
    """Set by `Attached`; read by every host."""

    runs: tuple[str, ...]
    device: torch.device
    takes_positions: bool
    first_position: int = 0
    positions: int | None = None
    route: Route | None = None
    active: Route | None = None
    training: bool = False
    vocabulary: int = 0
    has_dropout: bool = False
    masks: dict[str, Tensor | None] = field(default_factory=dict)
    keys: Tensor | None = None
    batch: int = 0
    within: bool = False
    derived: list[Derived] = field(default_factory=list)
    shifts: dict[str, dict[str, int]] = field(default_factory=dict)
    memberships: set[tuple[str, ...]] = field(default_factory=set)
    whole_text: dict[str, str] = field(default_factory=dict)
    calls: dict[Hashable, int] = field(default_factory=dict)
    place: OnePlace | None = None
    noted: dict[str, list[Tensor]] | None = None
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def choose(self, route: Route | None) -> None:
        """Puts a route in force, with its plans made, so that a compiled step only reads them."""
        if route is not None:
            route.check(self.runs)
            self._prepare(route)
        self.route = route

    def _prepare(self, route: Route) -> Route:
        route.prepare(self.memberships, self.device)
        for stream, shifts in self.shifts.items():
            if route.uniform:
                route.shifts[stream] = shifts.get(route.names[0] or "")
            elif any(name in shifts for name in route.names):
                values = [shifts.get(name or "", 0) for name in route.names]
                route.shifts[stream] = torch.tensor(values, device=self.device)[:, None]
        return route

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before each forward pass of the model: fits the route to the batch, derives tensors, sets positions."""
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
            if len(args) > 1:
                raise UserError("call the model with keyword arguments; only input_ids may be given by place")
        self.within = True
        tokens = next(
            (
                kwargs[name]
                for name in ("input_ids", "inputs_embeds", "decoder_input_ids")
                if kwargs.get(name) is not None
            ),
            None,
        )
        assert tokens is not None, "the model was called without input_ids"
        for stream, name in (
            ("", "attention_mask"),
            ("encoder", "attention_mask"),
            ("decoder", "decoder_attention_mask"),
        ):
            mask = kwargs.get(name)
            self.masks[stream] = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self._begin(tokens, kwargs.get("past_key_values"))
        if self.takes_positions:
            positions = self._positions(tokens, kwargs)
            if positions is not None:
                kwargs["position_ids"] = positions
        return (), kwargs

    def begin_encoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before an encoder that is run by itself, as `generate()` does."""
        if self.within:
            return
        tokens = args[0] if args else kwargs.get("input_ids")
        assert tokens is not None, "the encoder was called without input_ids"
        self.masks[""] = self.masks["encoder"] = kwargs.get("attention_mask")
        self._begin(tokens, None)

    def end(self, *_: object) -> None:
        self.within = False

    def _begin(self, tokens: Tensor, past: Any) -> None:
        self.calls.clear()
        self.active = self._fitted(tokens)
        if self.active is None:
            return
        self._derive(self.active)
        if self.training and self.has_dropout:
            keys = self.active.keys
            self.keys = keys if keys is not None else torch.randint(2**62, tokens.shape[:1], device=tokens.device)
        if self.whole_text and past is not None and not torch.compiler.is_compiling() and past.get_seq_length():
            for name in self.active.names:
                if name in self.whole_text:
                    raise UserError(
                        f'adapter "{name}" {self.whole_text[name]} the whole text, which a cache does not hold; '
                        "generate with use_cache=False"
                    )

    def call(self, module: nn.Module, calls: int) -> int:
        """Which call of a module this is in this forward pass, of as many as it has."""
        if calls == 1:
            return 0
        place = self.calls.get(id(module), 0)
        self.calls[id(module)] = place + 1
        return place

    def note(self, site: Site, name: str, values: Tensor) -> None:
        """Records a gate's values (n b 1) as `layer.role.name`, where they are wanted: `noted` is then a dict.

        A site that layers share is each of them in turn; `blocks` says of such a stack which block each layer is.
        """
        if self.noted is None:
            return
        call = self.calls.get((site, name), 0)
        self.calls[site, name] = call + 1
        layers = [layer for layer, block in enumerate(self.blocks.get(site.stack, ())) if block == site.layer]
        layer = layers[call] if layers else site.layer
        key = f"{replace(site, layer=layer).name}.{name}"
        self.noted.setdefault(key, []).append(values.detach().float().flatten().cpu())

    def _fitted(self, tokens: Tensor) -> Route | None:
        route = self.route
        if torch.compiler.is_compiling():  # a compiled step is given the batch that its route names
            return route
        self.batch = tokens.shape[0]
        if route is None or route.uniform or self.batch == len(route.names):
            return route
        return self._prepare(route.repeated(self.batch))

    def _derive(self, route: Route) -> None:
        for derived in self.derived:
            live = derived.from_input is None and route.plan(derived.bank.runs, self.device)
            derived.value = derived.derive(derived.bank.tensors()) if live else None

    def shift(self, stream: str) -> Tensor | int | None:
        """How far the rows' positions move in one stack, (rows 1) or one number for all."""
        return self.active.shifts.get(stream) if self.active is not None else None

    def _positions(self, tokens: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
        """Positions from the mask, moved by each row's shift; None where the model's own are right.

        Padding has those that the model itself gives to padding at the right, which pooling over all places reads.
        """
        given, mask = kwargs.get("position_ids"), self.masks[""]
        shift = self.shift("")
        first = self.first_position
        if given is None:
            if mask is not None:
                given = (mask.long().cumsum(-1) - 1)[:, -tokens.shape[1] :] + first
            elif shift is None:
                return None
            else:
                seen = _seen(kwargs)
                given = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)[None] + first
                given = given.expand(tokens.shape[0], -1)
                _unpack(tokens, kwargs)
        elif min(self.shifts.get("", {}).values(), default=0) < 0:
            _unpack(tokens, kwargs)
        moved = given if shift is None else given + shift
        own = torch.where(moved < first, given, moved).clamp(min=first)  # an unshifted prompt keeps its own places
        if mask is None or kwargs.get("position_ids") is not None:
            return own
        return torch.where(mask[:, -tokens.shape[1] :].bool(), own, self._padding(mask, tokens, shift))

    def _padding(self, mask: Tensor, tokens: Tensor, shift: Tensor | int | None) -> Tensor | int:
        """The positions of padding: the one that the model keeps for it, or else where each stands."""
        if self.first_position:
            return self.first_position - 1
        places = torch.arange(mask.shape[1], device=mask.device)[None, -tokens.shape[1] :]
        places = places if shift is None else places + shift
        return places.clamp(min=0, max=None if self.positions is None else self.positions - 1)

    def move(self, stream: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
        """A hook for a position embedding that finds positions by itself: moves them by the rows' shift.

        It is given positions flat and gives embeddings so, since such an embedding takes one row for all; `unfold`
        gives them their rows back.
        """

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            shift = self.shift(stream)
            if shift is None:
                return args, kwargs
            tokens = args[0] if args else kwargs["input_ids"]
            positions = kwargs.get("position_ids")
            if positions is None:
                seen = args[1] if len(args) > 1 else kwargs.get("past_key_values_length", 0)
                positions = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
            positions = positions.expand(tokens.shape[0], -1)
            moved = positions + shift
            return args, {**kwargs, "position_ids": torch.where(moved < 0, positions, moved).flatten()}

        return hook

    def unfold(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """(1 rows·tokens d) -> (rows tokens d), where `move` made it so."""
        tokens = args[0].shape[1]
        return y if y.shape[1] == tokens else y.reshape(-1, tokens, y.shape[-1])

    def row_keys(self, chunk: Chunk) -> Tensor:
        """The dropout keys (b) of a chunk's rows."""
        assert self.keys is not None
        return chunk.rows(self.keys)

    def row_positions(self, chunk: Chunk, h: Tensor, stream: str = "") -> Tensor:
        """Which real token of its text each place is, (b t), for a chunk's rows h (b t d)."""
        mask, place = self.masks.get(stream), self.place
        length = h.shape[1] if place is None else place.length
        if mask is None or length == 1:
            found = torch.arange(length, device=h.device).expand(h.shape[0], -1)
        else:
            found = chunk.rows(_reaching(mask, length).long().cumsum(-1) - 1)[:, -length:]
        return found if place is None else found.gather(1, chunk.rows(place.index))

    def real(self, chunk: Chunk, h: Tensor, stream: str = "") -> Tensor:
        """True at the real tokens, (b t), for a chunk's rows h (b t …)."""
        mask = self.masks.get(stream)
        if mask is None:
            return torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
        return chunk.rows(_reaching(mask, h.shape[1]))[:, -h.shape[1] :].bool()

    def by_example(self, x: Tensor) -> Tensor:
        """x as (batch tokens d), whether a layer was given it so, by head, or flattened."""
        return x if x.dim() == 3 else x.reshape(self.batch, -1, x.shape[-1])


def _reaching(mask: Tensor, length: int) -> Tensor:
    """A mask (rows t) of at least `length` places: some families pad a batch to a multiple of their window."""
    return F.pad(mask, (0, length - mask.shape[1])) if mask.shape[1] < length else mask


def _seen(kwargs: Mapping[str, Any]) -> int:
    """How many tokens the cache holds."""
    past = kwargs.get("past_key_values")
    return past.get_seq_length() if past is not None else 0


def _unpack(tokens: Tensor, kwargs: dict[str, Any]) -> None:
    """Gives a mask where there is none: without one, Transformers reads positions that jump back as packed texts."""
    if kwargs.get("attention_mask") is None:
        size = (tokens.shape[0], _seen(kwargs) + tokens.shape[1])
        kwargs["attention_mask"] = torch.ones(size, dtype=torch.long, device=tokens.device)
