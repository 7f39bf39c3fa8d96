"""A base model with runs attached: banks built, hosts in place, a route in force; `detach` gives every bit back."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites._acts import Act, Branch, Param, Past, Select, Tokens
from graftlm.sites._bank import Bank
from graftlm.sites._dropout import salt
from graftlm.sites._grouping import Sharing, grouped, place_of
from graftlm.sites._half import halve
from graftlm.sites._last_block import LastBlock
from graftlm.sites._merge import merged_weights
from graftlm.sites._mixing import mixed
from graftlm.sites._modes import Modes
from graftlm.sites._one_place import OnePlace
from graftlm.sites._placing import Placing
from graftlm.sites._quick import Quick
from graftlm.sites._route import Route
from graftlm.sites._router import Router
from graftlm.sites._sites import Sites
from graftlm.sites._stored import fill, kept


class Attached(nn.Module):
    """A frozen base and the runs on it.

    `base` is any Transformers model; `acts` says what each run does; `seeds` where its initial values come from.
    Call it as the base is called, with keyword arguments, inside `with attached.route([...])`; with a single run
    no route is needed. Under gradient checkpointing both the forward and the backward pass belong inside the `with`;
    it must not be reentrant, which it is not by default.
    """

    def __init__(self, sites: Sites, acts: Mapping[str, Sequence[Act]], seeds: Mapping[str, int]):
        super().__init__()
        self.base = sites.model
        self.sites = sites
        self.acts = {run: tuple(own) for run, own in acts.items()}
        self.runs = tuple(acts)
        self.seeds = dict(seeds)
        self._check_sharing()
        parameter = next(iter(self.base.parameters()))
        self.device = parameter.device
        self.dtype = torch.float32 if parameter.dtype in (torch.float16, torch.bfloat16) else parameter.dtype
        self.router = Router(
            self.runs,
            self.device,
            sites.places_tokens,
            first_position=sites.position_offset,
            positions=sites.positions,
            vocabulary=sites.vocabulary,
            blocks=sites.shared,
        )
        self.banks = nn.ModuleList()
        self._views: dict[str, dict[str, nn.Parameter]] = {run: {} for run in self.runs}
        self._tensors: dict[str, dict[str, Tensor]] = {run: {} for run in self.runs}
        self._modes = Modes(self.base)
        self._flags = {name: value.requires_grad for name, value in self.base.named_parameters()}
        self._originals: dict[str, Tensor] = {}
        self._placing = Placing(sites, self.router)
        self.base.requires_grad_(False)
        self._own = tuple(self.base.parameters())
        self._build()
        self._last_block = LastBlock(sites, self.acts, self.router)
        self._base_dropout = False
        self._quick: Quick | None = None
        self.route(self.runs[0] if len(self.runs) == 1 else None)
        self._routed = len(self.runs) == 1
        self.eval()

    def _check_sharing(self) -> None:
        for run, own in self.acts.items():
            if len(self.runs) > 1 and (layer := mixed(self.sites, own)):
                raise UserError(
                    f'adapter "{run}" acts at {layer}, where "{self.sites.family}" does not keep texts apart, so it '
                    "cannot share the base; attach it alone"
                )
            if len(self.runs) > 1 and any(isinstance(act, Select) for act in own):
                raise UserError(
                    f'adapter "{run}" trains the base\'s own weights, so it cannot share the base; attach it alone'
                )
            places = [act.place for act in own if isinstance(act, (Past, Tokens))]
            for place in places:
                if places.count(place) > 1:
                    raise UserError(f'adapter "{run}" has two {place} parts; one is the most')

    # ---- building ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        for run, own in self.acts.items():
            for act in own:
                if isinstance(act, Select):
                    self._select(run, act.parameter)
        for members in grouped(self.acts):
            self._place(members)

    def add_bank(
        self,
        place: str,
        params: Mapping[str, Mapping[str, Param]],
        constants: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Bank:
        """A bank of some runs' tensors, stored as `place.tensor`; a task's head is one that stands at no site."""

        def generator(run: str, name: str) -> torch.Generator:
            # hashed together: torch's CPU generator reads the low 32 bits of a seed alone
            return torch.Generator().manual_seed(salt(f"{self.seeds[run]}.{place}.{name}"))

        empty = {run: {} for run in params}
        bank = Bank(params, constants or empty, generator, self._live, self.dtype, self.device)
        self.banks.append(bank)
        for run in bank.runs:
            for name in bank.names:
                if f"{place}.{name}" in self._tensors[run]:
                    raise UserError(f'adapter "{run}" acts twice at {place}: two of its parts have a tensor "{name}"')
                self._tensors[run][f"{place}.{name}"] = bank.of(run, name)
            self._views[run] |= {f"{place}.{name}": view for name, view in bank.views[run].items()}
        self.router.memberships.add(bank.runs)
        if self.router.route is not None:
            self.router.choose(self.router.route)
        return bank

    def _live(self) -> Collection[str | None]:
        return self.router.active.names if self.router.active is not None else ()

    def _place(self, members: Mapping[str, Sharing]) -> None:
        first = next(iter(members.values()))
        place = place_of(first)
        constants = {run: getattr(act, "constants", {}) for run, act in members.items()}
        bank = self.add_bank(place, {run: act.params for run, act in members.items()}, constants)
        rates = [getattr(act, "dropout", 0.0) for act in members.values()]
        rate = torch.tensor(rates, dtype=self.dtype, device=self.device) if any(rates) else None
        self.router.has_dropout |= rate is not None
        if first.whole_text and first.stream != "encoder":  # an encoder always has the whole text
            self.router.whole_text |= dict.fromkeys(members, first.whole_text)
        if isinstance(first, Branch):
            self._placing.branch(bank, first, rate, place)
        else:
            self._placing.derived(bank, members, rate)  # pyright: ignore[reportArgumentType]

    def _select(self, run: str, name: str) -> None:
        parameter = self.base.get_parameter(name)
        self._originals[name] = parameter.detach().clone()
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"{name} is {parameter.dtype}; training the base's own weights needs fp32")
        parameter.requires_grad_(True)
        self._views[run][f"base.{name}"] = self._tensors[run][f"base.{name}"] = parameter

    # ---- using ------------------------------------------------------------------------------------------------

    def forward(self, **batch: Any) -> Any:
        """The base's own forward pass with the route's runs in it."""
        if not self._routed:
            raise UserError(
                f"no route: say which of {', '.join(self.runs)} each row is for, with attached.route([...])"
            )
        if self.training and getattr(self.sites.config, "use_cache", False):
            batch = {"use_cache": False} | batch  # checkpointing would fill a cache twice
        return self.base(**batch)

    def meet(self, **batch: Any) -> None:
        """Fits the route to a batch whose states are known, as a forward pass would, for heads that read them."""
        self.router.begin(self.base, (), batch)
        self.router.end()

    def reading(self, places: Tensor, length: int) -> AbstractContextManager[None]:
        """Inside `with attached.reading(places, length)` only the last states at one place of each row are right.

        places (rows) of rows of `length` tokens, of the decoder's where there are two stacks. The last block is
        computed at these places alone, as far as the runs allow it.
        """
        return self._last_block.at(OnePlace(places[:, None], length))

    def route(self, rows: Sequence[str | None] | str | None, keys: Tensor | None = None) -> "_Scope":
        """Puts a route in force: a run's name for every row of the batch, one name for all rows, or None for none.

        It stays in force until the next call; used as a context manager it gives the earlier one back at the end.
        `keys` (rows), int64, seed the methods' dropout.
        """
        before = self.router.route
        self._routed = True
        if rows is None:
            self.router.choose(None)
        elif isinstance(rows, str):
            self.router.choose(Route((rows,), keys, uniform=True))
        else:
            self.router.choose(Route(tuple(rows), keys))
        return _Scope(self, before)

    def disabled(self) -> "_Scope":
        """The bare base, whatever the route: `with attached.disabled(): …`."""
        return self.route(None)

    def train(self, mode: bool = True) -> "Attached":
        """Turns the methods' own dropout on or off; the frozen base stays in eval mode (see `base_dropout`)."""
        self.training = mode
        self.router.training = mode
        for bank in self.banks:
            bank.forget()  # pyright: ignore[reportCallIssue]
        self._modes.train(mode, self._base_dropout)
        return self

    def base_dropout(self, on: bool) -> None:
        """Lets a single run train with the base's own dropout too, which draws from torch's global generator."""
        if on and len(self.runs) > 1:
            raise UserError("base_dropout is for a single run: the base's dropout is shared by all rows")
        self._base_dropout = on
        self.train(self.training)

    def quicken(self, pack: bool = False) -> dict[str, str]:
        """Computes the frozen base by the kernels that are quickest on this machine; gives each layer's, by path.

        The numbers differ from plain torch's by rounding. `pack` allows twice the weights' memory beside them.
        """
        if self._quick is not None:
            self._quick.undo()
        self._quick = Quick(self.sites, pack)
        return self._quick.kernels

    @contextmanager
    def gates(self) -> Iterator[dict[str, list[Tensor]]]:
        """Gathers the gates of the forward passes inside, of one run: `layer.role.part` -> a tensor (rows) a pass."""
        self.router.noted = {}
        try:
            yield self.router.noted
        finally:
            self.router.noted = None

    def halve(self) -> None:
        """Casts the base's weights to bf16 for good; what runs add to it stays fp32. For runs that train no more."""
        halve(self._own)

    def parameters_of(self, run: str) -> dict[str, nn.Parameter]:
        """A run's own trainable tensors by name; their `.grad` is filled after each backward pass."""
        return dict(self._views[run])

    def rates_of(self, run: str) -> dict[str, float]:
        """What to multiply the run's learning rate by, for the tensors whose rate is another."""
        return {
            f"{place_of(act)}.{name}": rate
            for act in self.acts[run]
            if isinstance(act, Branch)
            for name, rate in act.rates.items()
        }

    def decayed_of(self, run: str) -> set[str]:
        """The run's vectors that weight decay shrinks as it does matrices."""
        branches = [act for act in self.acts[run] if isinstance(act, Branch)]
        return {f"{place_of(act)}.{name}" for act in branches for name, param in act.params.items() if param.decays}

    def strengthen(self, run: str, strength: float) -> None:
        """Scales what a run adds to the outputs of layers; 1 is as it was trained, 0 is the base.

        Raises UserError for a number that is not finite, and where a part of the run adds nothing that could be scaled.
        """
        if not math.isfinite(strength):
            raise UserError(f"strength = {strength} is not finite; 1 is as trained and 0 is the base")
        for act in self.acts[run]:
            if not isinstance(act, Branch):
                kind = {Past: "a prefix", Tokens: "a prompt"}.get(type(act), "weights of the base's own")
                raise UserError(f'adapter "{run}" has no strength: {kind} cannot be scaled; methods on layers can')
        for placed in self._placing.placed.get(run, ()):
            if placed.strength is None:
                placed.strength = torch.ones(len(placed.bank.runs), dtype=self.dtype, device=self.device)
            placed.strength[placed.bank.runs.index(run)] = strength

    def kept(self, run: str) -> dict[str, Tensor]:
        """What is stored of a run: its tensors, with any reparametrisation computed once and dropped."""
        return kept(self.acts[run], self._views[run], self._tensors[run])

    def load(self, run: str, tensors: Mapping[str, Tensor]) -> None:
        """Copies stored tensors into a run; missing, unexpected and mis-shaped ones are errors that name them."""
        fill(run, self._views[run], tensors)

    def merged(self, run: str) -> dict[str, Tensor]:
        """The base's weights with a run folded in, in fp32, by parameter name; only those that change.

        Raises UserError where the run has a part that no weight can express, or one that other layers share.
        """
        hosts = self._placing.hosts
        return merged_weights(run, self.acts[run], self._tensors[run], lambda path: hosts[path].inner, self.base)

    @torch.no_grad()
    def fold(self, run: str) -> bool:
        """Puts the only run into the base's weights, where it can be merged, so that its forward pass is the bare
        base's; gives whether it was. Until `detach` the run then cannot be trained, strengthened or turned off.
        """
        if len(self.runs) > 1 or not any(isinstance(act, Branch) for act in self.acts[run]):
            return False
        try:
            weights = self.merged(run)
        except UserError:
            return False
        if self._quick is not None:
            self._quick.undo()
            self._quick = None
        self._placing.unhost()
        for name, value in weights.items():
            parameter = self.base.get_parameter(name)
            self._originals.setdefault(name, parameter.detach().clone())
            parameter.copy_(value)
        return True

    @torch.no_grad()
    def detach(self) -> nn.Module:
        """Puts the same module objects, bits, modes and gradient flags back, and gives the base."""
        if self._quick is not None:
            self._quick.undo()
        self._placing.undo()
        for name, value in self._originals.items():
            parameter = self.base.get_parameter(name)
            parameter.copy_(value)
            parameter.grad = None
        for name, value in self.base.named_parameters():
            value.requires_grad_(self._flags[name])
        self._modes.give_back()
        return self.base


class _Scope:
    """Gives the earlier route back when a `with` block ends."""

    def __init__(self, attached: Attached, before: Route | None):
        self._attached = attached
        self._before = before

    def __enter__(self) -> Attached:
        return self._attached

    def __exit__(self, *_: object) -> None:
        self._attached.router.choose(self._before)
