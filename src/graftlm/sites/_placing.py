"""What is put into a base model and taken out again: hosts in place of layers, prefixes at attention, hooks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites import _attention
from graftlm.sites._acts import Branch, Past, Tokens
from graftlm.sites._bank import Bank
from graftlm.sites._dropout import salt
from graftlm.sites._hosts import EmbeddingHost, Host, Placed
from graftlm.sites._longrope import PREPARE, renewing
from graftlm.sites._router import Derived, Router
from graftlm.sites._site import Attention, Site
from graftlm.sites._sites import Sites
from graftlm.sites._view import Ends, Kept

PROCESSORS = "_get_logits_processor"  # what `generate` makes its processors of logits by


class Placing:
    """Puts banks where they act. `undo` gives the base its own module objects, hooks and settings back."""

    def __init__(self, sites: Sites, router: Router):
        self.base = sites.model
        self.sites = sites
        self.router = router
        self.hosts: dict[str, Host] = {}
        self.placed: dict[str, list[Placed]] = {}
        self._places: dict[str, Kept] = {}
        self._implementations: list[tuple[Any, str]] = []
        self._hooks = [self.base.register_forward_pre_hook(router.begin, with_kwargs=True)]
        if sites.encoder_decoder:
            encoder = self.base.get_submodule(f"{sites.prefix}encoder")
            self._hooks.append(encoder.register_forward_pre_hook(router.begin_encoder, with_kwargs=True))
            self._hooks.append(self.base.register_forward_hook(router.end, always_call=True))

    def branch(self, bank: Bank, act: Branch, rate: Tensor | None, place: str) -> None:
        site = act.site
        ends = self._ends(site) if site.span is not None else None
        placed = Placed(site, bank, act.forward, rate, salt(place), ends, act.wide)  # pyright: ignore[reportArgumentType]
        host = self.host(site.module)
        if act.where == "input":
            host.inputs.append(placed)
        else:
            host.place(placed)
        for run in bank.runs:
            self.placed.setdefault(run, []).append(placed)

    def derived(self, bank: Bank, acts: Mapping[str, Past | Tokens], rate: Tensor | None) -> None:
        """A bank whose tensors become prefixes or virtual tokens."""
        first = next(iter(acts.values()))
        sizes = [act.length for act in acts.values()]
        made = Derived(bank, first.derive, torch.tensor(sizes, device=self.router.device), len(set(sizes)) == 1)
        self.router.derived.append(made)
        for run, act in acts.items():
            self._shift(run, act)
        if isinstance(first, Past):
            self._prefix(_attention.Placed(made, rate, first.gate), first)
        else:
            made.from_input = first.from_input
            made.firsts = torch.tensor([getattr(act, "first", 0) for act in acts.values()], device=self.router.device)
            self._embedding_host().tables.append(made)
            self._process_words()

    def _shift(self, run: str, act: Past | Tokens) -> None:
        if not act.position_shift:
            return
        stream = act.part if isinstance(act, Past) else ("encoder" if self.sites.encoder_decoder else "")
        table = self.sites.table
        if stream and table is not None and (path := table.stacks[stream].places) and stream not in self.router.shifts:
            module = self.base.get_submodule(self.sites.prefix + path)
            self._hooks.append(module.register_forward_pre_hook(self.router.move(stream), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self.router.unfold))
        shifts = self.router.shifts.setdefault(stream, {})
        shifts[run] = shifts.get(run, 0) + act.position_shift
        self._renew_caches()

    def host(self, path: str) -> Host:
        """The host at a module path, put there once."""
        if path not in self.hosts:
            inner = self.base.get_submodule(path)
            kind = EmbeddingHost if isinstance(inner, nn.Embedding) else Host
            self.hosts[path] = kind(inner, self.router)
            self._replace(path, self.hosts[path])
        return self.hosts[path]

    def _embedding_host(self) -> EmbeddingHost:
        module = self.sites.embedding()
        if isinstance(module, EmbeddingHost):
            return module
        path = next(path for path, inner in self.base.named_modules() if inner is module)
        if not isinstance(module, nn.Embedding):
            raise UserError(
                f'"{self.sites.family}" looks words up in a {type(module).__name__}, where no virtual tokens can '
                "stand; head would work"
            )
        host = self.host(path)
        assert isinstance(host, EmbeddingHost)
        return host

    def _process_words(self) -> None:
        """Has `generate`, where the base has it, look up a text's own words without the virtual tokens."""
        made = getattr(self.base, PROCESSORS, None)
        if made is not None and PROCESSORS not in vars(self.base):
            setattr(self.base, PROCESSORS, _of_words(made, self.sites.vocabulary))

    def _renew_caches(self) -> None:
        """Has `generate`, where the base has it, change to the long factors of its rope where shifted positions do."""
        rope, made = getattr(self.sites.config, "rope_parameters", None) or {}, getattr(self.base, PREPARE, None)
        if rope.get("rope_type") == "longrope" and made is not None and PREPARE not in vars(self.base):
            limit = int(rope["original_max_position_embeddings"])
            setattr(self.base, PREPARE, renewing(made, self.router, limit))

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

    def _prefix(self, placed: _attention.Placed, act: Past) -> None:
        modules: dict[str, list[Attention]] = {}
        for attention in act.attentions:
            modules.setdefault(attention.module, []).append(attention)
        for path, attentions in modules.items():
            module = self.base.get_submodule(path)
            prefixes = getattr(module, _attention.ATTRIBUTE, None)
            if prefixes is None:
                one, layers = attentions[0], tuple(attention.layer for attention in attentions)
                site = self.sites.query(one)
                prefixes = _attention.Prefixes(self.router, layers, one.heads, one.head_width, one.part, site)
                setattr(module, _attention.ATTRIBUTE, prefixes)
            if placed.gate is not None:
                prefixes.entry = self._kept(prefixes.site.module)
            prefixes.banks.append(placed)
        if not self._implementations:
            self._implementations = _attention.take_over(self.base)

    def unhost(self) -> None:
        """Gives the base its own layers back, whatever acts on them; routes and what acts elsewhere stay."""
        for path, host in self.hosts.items():
            self._replace(path, host.inner)

    def undo(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.unhost()
        for name in (PROCESSORS, PREPARE):
            vars(self.base).pop(name, None)
        for module in self.base.modules():
            if hasattr(module, _attention.ATTRIBUTE):
                delattr(module, _attention.ATTRIBUTE)
        _attention.give_back(self._implementations)


def _of_words(made: Callable[..., Any], vocabulary: int) -> Callable[..., Any]:
    """The same processors, of which one that looks up a text's own words is given no virtual tokens."""

    def processors(*args: Any, **given: Any) -> Any:
        found = made(*args, **given)
        for one in found:
            if type(one).__name__ == "EncoderRepetitionPenaltyLogitsProcessor":
                ids: Tensor = one.encoder_input_ids
                one.encoder_input_ids = ids.where(ids < vocabulary, ids.amin(1, keepdim=True))  # a word twice is once
        return found

    return processors
