"""The state that all hosts of one model share: the route in force, and what was computed once for this forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites._bank import Bank
from graftlm.sites._route import Chunk, Route


@dataclass
class Derived:
    """A bank whose tensors are turned into others once a forward pass (a prefix from its MLP, a prompt's table)."""

    bank: Bank
    derive: Callable[[Mapping[str, Tensor]], Tensor]
    lengths: Tensor
    equal_lengths: bool
    value: Tensor | None = None


@dataclass
class Router:
    """Set by `Attached`; read by every host."""

    runs: tuple[str, ...]
    device: torch.device
    takes_positions: bool
    route: Route | None = None
    active: Route | None = None
    training: bool = False
    vocabulary: int = 0
    has_dropout: bool = False
    mask: Tensor | None = None
    keys: Tensor | None = None
    batch: int = 0
    derived: list[Derived] = field(default_factory=list)
    shifts: dict[str, int] = field(default_factory=dict)
    memberships: set[tuple[str, ...]] = field(default_factory=set)

    def choose(self, route: Route | None) -> None:
        """Puts a route in force, with its plans made, so that a compiled step only reads them."""
        if route is not None:
            route.check(self.runs)
            self._prepare(route)
        self.route = route

    def _prepare(self, route: Route) -> Route:
        route.prepare(self.memberships, self.device)
        if route.uniform:
            route.shift = self.shifts.get(route.names[0] or "")
        elif any(name in self.shifts for name in route.names):
            values = [self.shifts.get(name or "", 0) for name in route.names]
            route.shift = torch.tensor(values, device=self.device)[:, None]
        return route

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before each forward pass of the model: fits the route to the batch, derives tensors, sets positions."""
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
            if len(args) > 1:
                raise UserError("call the model with keyword arguments; only input_ids may be given by place")
        ids = kwargs.get("input_ids")
        tokens = ids if ids is not None else kwargs.get("inputs_embeds")
        assert tokens is not None, "the model was called without input_ids"
        mask = kwargs.get("attention_mask")
        self.mask = mask if mask is not None and mask.dim() == 2 else None
        self.active = self._fitted(tokens)
        if self.active is not None:
            self._derive(self.active)
            if self.training and self.has_dropout:
                keys = self.active.keys
                self.keys = keys if keys is not None else torch.randint(2**62, tokens.shape[:1], device=tokens.device)
        if self.takes_positions:
            positions = self._positions(tokens, kwargs)
            if positions is not None:
                kwargs["position_ids"] = positions
        return (), kwargs

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
            live = route.plan(derived.bank.runs, self.device)
            derived.value = derived.derive(derived.bank.tensors()) if live else None

    def _positions(self, tokens: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
        """Positions from the mask, moved by each row's shift; None where the model's own are right."""
        given = kwargs.get("position_ids")
        shift = self.active.shift if self.active is not None else None
        if given is None:
            if self.mask is not None:
                given = (self.mask.long().cumsum(-1) - 1)[:, -tokens.shape[1] :]
            elif shift is None:
                return None
            else:
                past = kwargs.get("past_key_values")
                seen = past.get_seq_length() if past is not None else 0
                given = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)[None]
                given = given.expand(tokens.shape[0], -1)
                if kwargs.get("attention_mask") is None:
                    # without a mask, Transformers reads positions that jump back as packed texts
                    size = (tokens.shape[0], seen + tokens.shape[1])
                    kwargs["attention_mask"] = torch.ones(size, dtype=torch.long, device=tokens.device)
        if shift is None:
            return given.clamp(min=0)
        moved = given + shift
        return torch.where(moved < 0, given, moved).clamp(min=0)  # a prompt that shifts nothing keeps its own places

    def row_keys(self, chunk: Chunk) -> Tensor:
        """The dropout keys (b) of a chunk's rows."""
        assert self.keys is not None
        return chunk.rows(self.keys)

    def row_positions(self, chunk: Chunk, h: Tensor) -> Tensor:
        """Which real token of its text each place is, (b t), for a chunk's rows h (b t d)."""
        if self.mask is None or h.shape[1] == 1:
            return torch.arange(h.shape[1], device=h.device).expand(h.shape[0], -1)
        return chunk.rows(self.mask.long().cumsum(-1) - 1)[:, -h.shape[1] :]

    def by_example(self, x: Tensor) -> Tensor:
        """x as (batch tokens d), whether a layer was given it so or flattened."""
        return x if x.dim() == 3 else x.reshape(self.batch, -1, x.shape[-1])
