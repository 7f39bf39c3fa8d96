"""A base model with runs attached: banks built, hosts in place, a route in force; `detach` gives every bit back."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from graftlm.core.errors import UserError
from graftlm.sites import _attention
from graftlm.sites._acts import Act, Branch, Param, Past, Select, Tokens
from graftlm.sites._bank import Bank
from graftlm.sites._dropout import salt
from graftlm.sites._hosts import EmbeddingHost, Host, Placed
from graftlm.sites._merge import merged_weights
from graftlm.sites._route import Route
from graftlm.sites._router import Derived, Router
from graftlm.sites._sites import Site, Sites
from graftlm.sites._view import Ends, Kept


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
        self.router = Router(self.runs, self.device, sites.places_tokens, vocabulary=sites.vocabulary)
        self.banks = nn.ModuleList()
        self._views: dict[str, dict[str, nn.Parameter]] = {run: {} for run in self.runs}
        self._hosts: dict[str, Host] = {}
        self._places: dict[str, Kept] = {}
        self._modes = {name: module.training for name, module in self.base.named_modules()}
        self._flags = {name: value.requires_grad for name, value in self.base.named_parameters()}
        self._originals: dict[str, Tensor] = {}
        self._implementation: str | None = None
        self.base.requires_grad_(False)
        self._build()
        self._hook = self.base.register_forward_pre_hook(self.router.begin, with_kwargs=True)
        self._base_dropout = False
        self.route(self.runs[0] if len(self.runs) == 1 else None)
        self._routed = len(self.runs) == 1
        self.eval()

    def _check_sharing(self) -> None:
        for run, own in self.acts.items():
            if len(self.runs) > 1 and any(isinstance(act, Select) for act in own):
                raise UserError(
                    f'adapter "{run}" trains the base\'s own weights, so it cannot share the base; attach it alone'
                )
            for kind in (Past, Tokens):
                if sum(isinstance(act, kind) for act in own) > 1:
                    raise UserError(f'adapter "{run}" has two {kind.__name__.lower()} parts; one is the most')

    # ---- building ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        groups: dict[tuple[Any, ...], dict[str, Act]] = {}
        for run, own in self.acts.items():
            for act in own:
                if isinstance(act, Select):
                    self._select(run, act.parameter)
                    continue
                key = _group(act)
                if run in groups.get(key, {}):
                    raise UserError(f'adapter "{run}" acts twice in the same way at {key[1]}')
                groups.setdefault(key, {})[run] = act
        for (_, place, *_), members in groups.items():
            self._place(str(place), members)
        for bank in self.banks:
            assert isinstance(bank, Bank)
            self.router.memberships.add(bank.runs)

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
            for name, view in bank.views[run].items():
                self._views[run][f"{place}.{name}"] = view
        self.router.memberships.add(bank.runs)
        if self.router.route is not None:
            self.router.choose(self.router.route)
        return bank

    def _live(self) -> Collection[str | None]:
        return self.router.active.names if self.router.active is not None else ()

    def _place(self, place: str, members: dict[str, Act]) -> None:
        first = next(iter(members.values()))
        assert not isinstance(first, Select)
        constants = {run: getattr(act, "constants", {}) for run, act in members.items()}
        bank = self.add_bank(place, {run: act.params for run, act in members.items()}, constants)  # pyright: ignore[reportAttributeAccessIssue]
        rates = [getattr(act, "dropout", 0.0) for act in members.values()]
        rate = torch.tensor(rates, dtype=self.dtype, device=self.device) if any(rates) else None
        self.router.has_dropout |= rate is not None
        if isinstance(first, Branch):
            site = first.site
            ends = self._ends(site) if site.span is not None else None
            self.host(site.module).place(Placed(site, bank, first.forward, rate, salt(place), ends))  # pyright: ignore[reportArgumentType]
            return
        sizes = [act.length for act in members.values()]  # pyright: ignore[reportAttributeAccessIssue]
        lengths = torch.tensor(sizes, device=self.device)
        derived = Derived(bank, first.derive, lengths, len(set(sizes)) == 1)
        self.router.derived.append(derived)
        for run, act in members.items():
            if act.position_shift:  # pyright: ignore[reportAttributeAccessIssue]
                self.router.shifts[run] = self.router.shifts.get(run, 0) + act.position_shift  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(first, Past):
            self._prefix(derived, rate, first)
        else:
            self._embedding_host().tables.append(derived)

    def _select(self, run: str, name: str) -> None:
        parameter = self.base.get_parameter(name)
        self._originals[name] = parameter.detach().clone()
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"{name} is {parameter.dtype}; training the base's own weights needs fp32")
        parameter.requires_grad_(True)
        self._views[run][f"base.{name}"] = parameter

    def host(self, path: str) -> Host:
        """The host at a module path, put there once."""
        if path not in self._hosts:
            inner = self.base.get_submodule(path)
            kind = EmbeddingHost if isinstance(inner, nn.Embedding) else Host
            self._hosts[path] = kind(inner, self.router)
            self._replace(path, self._hosts[path])
        return self._hosts[path]

    def _embedding_host(self) -> EmbeddingHost:
        module = self.sites.embedding()
        if isinstance(module, EmbeddingHost):
            return module
        path = next(path for path, inner in self.base.named_modules() if inner is module)
        host = self.host(path)
        assert isinstance(host, EmbeddingHost)
        return host

    def _replace(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.base.get_submodule(parent), name, module)

    def _ends(self, site: Site) -> Ends:
        span = site.span
        assert span is not None
        norm = self.base.get_submodule(span.norm) if span.norm else None
        if isinstance(norm, Host):
            norm = norm.inner
        return Ends(self._kept(span.entry), self._kept(span.residual), norm)

    def _kept(self, path: str) -> Kept:
        if path not in self._places:
            self._places[path] = Kept()
            self.host(path).keeps.append(self._places[path])
        return self._places[path]

    def _prefix(self, derived: Derived, rate: Tensor | None, act: Past) -> None:
        for layer in range(act.layers):
            module = self.base.get_submodule(self.sites.attention_path(layer))
            prefixes = getattr(module, _attention.ATTRIBUTE, None)
            if prefixes is None:
                prefixes = _attention.Prefixes(self.router, [], layer, act.heads, act.head_width)
                setattr(module, _attention.ATTRIBUTE, prefixes)
            prefixes.banks.append((derived, rate))
        config = self.sites.config
        if self._implementation is None:
            self._implementation = config._attn_implementation
            config._attn_implementation = _attention.NAME

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
        for module in self.base.modules():
            module.training = mode and (isinstance(module, GradientCheckpointingLayer) or self._drops(module))
        return self

    def base_dropout(self, on: bool) -> None:
        """Lets a single run train with the base's own dropout too, which draws from torch's global generator."""
        if on and len(self.runs) > 1:
            raise UserError("base_dropout is for a single run: the base's dropout is shared by all rows")
        self._base_dropout = on
        self.train(self.training)

    def _drops(self, module: nn.Module) -> bool:
        if not self._base_dropout:
            return False
        holds = any(isinstance(child, nn.Dropout) for child in module.children())
        return isinstance(module, nn.Dropout) or holds or type(module).__name__.endswith("Attention")

    def parameters_of(self, run: str) -> dict[str, nn.Parameter]:
        """A run's own trainable tensors by name; their `.grad` is filled after each backward pass."""
        return dict(self._views[run])

    @torch.no_grad()
    def kept(self, run: str) -> dict[str, Tensor]:
        """What is stored of a run: its tensors, with any reparametrisation computed once and dropped."""
        out = {name: view.detach().clone() for name, view in self._views[run].items()}
        for act in self.acts[run]:
            if isinstance(act, (Past, Tokens)):
                place = _group(act)[1]
                own = {name: self._views[run][f"{place}.{name}"][None] for name in act.params}
                for name in act.params:
                    del out[f"{place}.{name}"]
                out[f"{place}.values"] = act.derive(own)[0].clone()
        return out

    @torch.no_grad()
    def load(self, run: str, tensors: Mapping[str, Tensor]) -> None:
        """Copies stored tensors into a run; missing, unexpected and mis-shaped ones are errors that name them."""
        views = self._views[run]
        missing, unexpected = sorted(views.keys() - tensors.keys()), sorted(tensors.keys() - views.keys())
        if missing or unexpected:
            parts = [
                f"{len(names)} {kind} (first: {names[0]})"
                for kind, names in (("missing", missing), ("unexpected", unexpected))
                if names
            ]
            raise UserError(f'the tensors for adapter "{run}" do not fit it: {", ".join(parts)}')
        for name, view in views.items():
            if tuple(tensors[name].shape) != tuple(view.shape):
                raise UserError(f"tensor {name} has shape {tuple(tensors[name].shape)}; {tuple(view.shape)} is needed")
        for name, view in views.items():
            view.copy_(tensors[name])

    def merged(self, run: str) -> dict[str, Tensor]:
        """The base's weights with a run folded in, in fp32, by parameter name; only those that change.

        Raises UserError where the run has a part that no weight can express.
        """
        for act in self.acts[run]:
            if not isinstance(act, Select) and (not isinstance(act, Branch) or act.merge is None):
                kind = {Past: "a prefix", Tokens: "a prompt"}.get(type(act), "a nonlinear branch")
                raise UserError(
                    f'adapter "{run}" cannot be merged: {kind} at {_group(act)[1]} is not a change of a weight'
                )
        return merged_weights(self.acts[run], self._views[run], lambda path: self._hosts[path].inner)

    @torch.no_grad()
    def detach(self) -> nn.Module:
        """Puts the same module objects, bits, modes and gradient flags back, and gives the base."""
        self._hook.remove()
        for path, host in self._hosts.items():
            self._replace(path, host.inner)
        for module in self.base.modules():
            if hasattr(module, _attention.ATTRIBUTE):
                delattr(module, _attention.ATTRIBUTE)
        if self._implementation is not None:
            self.sites.config._attn_implementation = self._implementation
        for name, value in self._originals.items():
            parameter = self.base.get_parameter(name)
            parameter.copy_(value)
            parameter.grad = None
        for name, value in self.base.named_parameters():
            value.requires_grad_(self._flags[name])
        for name, module in self.base.named_modules():
            module.training = self._modes[name]
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


def _group(act: Act) -> tuple[Any, ...]:
    """What runs must have in common to share a bank: the kind of act, the place, the maths, the tensors' names."""
    if isinstance(act, Branch):
        place = f"{act.site.name}"
        return ("branch", place, act.site.module, act.forward, tuple(act.params), tuple(act.constants))
    if isinstance(act, Past):
        return ("past", "prefix", act.derive, tuple(act.params))
    if isinstance(act, Tokens):
        return ("tokens", "prompt", act.derive, tuple(act.params))
    return ("select", act.parameter)
