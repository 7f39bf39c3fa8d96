"""Hosts: one stands in for each layer on which anything acts, and holds all branches there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftlm.sites._bank import Bank
from graftlm.sites._route import Chunk
from graftlm.sites._router import Derived, Router
from graftlm.sites._site import Rows, Site
from graftlm.sites._view import Ends, Kept, View, compute_dtype


@dataclass
class Placed:
    """A bank at a site, and the maths that uses it."""

    site: Site
    bank: Bank
    forward: Callable[[View, dict[str, Tensor]], Tensor]
    rate: Tensor | None
    salt: int
    ends: Ends | None
    wide: bool
    strength: Tensor | None = None


@dataclass
class Patch:
    """What replaces rows `start:stop` of an output: `compute` takes the chunk's rows of it."""

    chunk: Chunk
    compute: Callable[[Tensor], Tensor]


class Host(nn.Module):
    """Stands in for `inner`; adds its branches to the outputs of the rows that are routed to them."""

    def __init__(self, inner: nn.Module, router: Router):
        super().__init__()
        self.inner = inner
        self.router = router
        self.keeps: list[Kept] = []
        self.whole: list[Placed] = []
        self.parts: dict[Rows, list[Placed]] = {}
        self.spans: list[Placed] = []
        self.inputs: list[Placed] = []
        self.training = inner.training

    @property
    def weight(self) -> Tensor:
        return self.inner.weight  # pyright: ignore[reportReturnType]

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias  # pyright: ignore[reportReturnType]

    def place(self, placed: Placed) -> None:
        """Adds a branch on outputs; those on parts of a fused layer come after those on all of it, spans last."""
        if placed.ends is not None:
            self.spans.append(placed)
        elif placed.site.rows is not None:
            self.parts.setdefault(placed.site.rows, []).append(placed)
        else:
            self.whole.append(placed)

    def forward(self, x: Tensor) -> Tensor:
        for kept in self.keeps:
            kept.value = x
        if self.inputs and self.router.active is not None:
            x = self._branches(self.inputs, x, x, x)
        return self.act(self.inner(x), x)

    def act(self, y: Tensor, x: Tensor) -> Tensor:
        """The outputs y with every branch of this layer added."""
        if self.router.active is None:
            return y
        frozen, y = y, self._branches(self.whole, y, x, y)
        for rows, placed in self.parts.items():
            part = rows.of_outputs(y)
            acted = self._branches(placed, part, x, rows.of_outputs(frozen))
            if acted is not part:
                y = _with_part(y, rows, acted)
        return self._branches(self.spans, y, x, frozen)

    def _branches(self, placed: Sequence[Placed], y: Tensor, x: Tensor, frozen: Tensor) -> Tensor:
        route = self.router.active
        assert route is not None
        patches = [
            Patch(chunk, self._computation(one, chunk, x, frozen))
            for one in placed
            for chunk in route.plan(one.bank.runs, y.device)
        ]
        return patched(y, patches, self.router)

    def _computation(self, placed: Placed, chunk: Chunk, x: Tensor, frozen: Tensor) -> Callable[[Tensor], Tensor]:
        def compute(rows: Tensor) -> Tensor:
            dtype = compute_dtype(rows, placed.wide)
            y = chunk.by_run(rows if dtype is None else rows.to(dtype))
            view = View(
                placed.site,
                self.inner,
                chunk,
                self.router,
                input=x,
                output=frozen,
                y=y,
                rate=placed.rate,
                salt=placed.salt,
                ends=placed.ends,
                bank=placed.bank,
                dtype=dtype,
            )
            out = placed.forward(view, placed.bank.take(chunk, dtype))
            if placed.strength is not None:
                out = y + (out - y) * chunk.pick(placed.strength)[:, None, None].to(out.dtype)
            return out.to(rows.dtype).reshape(rows.shape)

        return compute


class EmbeddingHost(Host):
    """An embedding whose ids at and above the vocabulary size are the rows' own virtual tokens.

    Where the family scales what it looks up, so are virtual tokens: all values are in the weight's own scale.
    """

    def __init__(self, inner: nn.Module, router: Router):
        super().__init__(inner, router)
        self.tables: list[Derived] = []

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.inner, nn.Embedding)
        virtual = x - self.router.vocabulary  # ≥ 0 at a virtual token
        known = torch.where(virtual < 0, x, 0) if self.tables else x
        y = self.act(nn.Embedding.forward(self.inner, known), known[..., None])
        route = self.router.active
        if route is not None and self.tables:
            patches = [
                Patch(chunk, self._looked_up(derived, chunk, virtual))
                for derived in self.tables
                for chunk in route.plan(derived.bank.runs, y.device)
            ]
            y = patched(y, patches, self.router)
        scale = getattr(self.inner, "embed_scale", None)
        return y if scale is None else y * (scale.to(y.dtype) if isinstance(scale, Tensor) else scale)

    def _looked_up(self, derived: Derived, chunk: Chunk, virtual: Tensor) -> Callable[[Tensor], Tensor]:
        def compute(y: Tensor) -> Tensor:
            assert derived.firsts is not None
            slots = chunk.by_run(chunk.rows(virtual)[..., None])  # n r 1
            firsts, lengths = (chunk.pick(own)[:, None, None] for own in (derived.firsts, derived.lengths))
            known = chunk.by_run(y)  # n r d
            if derived.from_input is None:
                assert derived.value is not None
                table = chunk.pick(derived.value).to(y.dtype)  # n length d
            else:
                slots, known, table = self._own_tables(derived, chunk, chunk.rows(virtual), y)
                firsts, lengths = (
                    chunk.spread(own, y.shape[0])[:, None, None] for own in (derived.firsts, derived.lengths)
                )
            slots = slots - firsts
            index = slots.clamp(0, table.shape[1] - 1).expand(-1, -1, table.shape[2])
            return torch.where((slots >= 0) & (slots < lengths), table.gather(1, index), known).reshape(y.shape)

        return compute

    def _own_tables(self, derived: Derived, chunk: Chunk, virtual: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A chunk's slots (rows t 1), embeddings (rows t d) and tables (rows length d), made from each row's text."""
        assert derived.from_input is not None
        real = (virtual < 0) & self.router.real(chunk, virtual)  # rows t
        weights = real.to(y.dtype)[..., None]
        mean = (y * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)  # rows 1 d
        made = derived.from_input(chunk.by_run(mean), derived.bank.take(chunk, compute_dtype(y)))  # n rows length·d
        return virtual[..., None], y, made.reshape(y.shape[0], -1, y.shape[-1]).to(y.dtype)


def patched(y: Tensor, patches: Sequence[Patch], router: Router) -> Tensor:
    """y with each patch's rows computed anew; patches on the same rows act one after another."""
    if len(patches) == 1 and patches[0].chunk.whole:
        return patches[0].compute(y)
    waiting = list(patches)
    while waiting:
        layer: list[Patch] = []
        later: list[Patch] = []
        for patch in waiting:
            free = all(_apart(patch.chunk, other.chunk) for other in layer + later)
            (layer if free else later).append(patch)
        y = _layer(y, layer, router)
        waiting = later
    return y


def _apart(one: Chunk, other: Chunk) -> bool:
    if one.whole or other.whole or one.places is not None or other.places is not None:
        return False
    return one.stretches.stop <= other.stretches.start or other.stretches.stop <= one.stretches.start


def _layer(y: Tensor, patches: Sequence[Patch], router: Router) -> Tensor:
    if patches[0].chunk.whole:
        return patches[0].compute(y)
    assert router.active is not None
    shape = y.shape
    y = router.by_example(y)
    if (chunk := patches[0].chunk).places is not None:
        return chunk.put(y, patches[0].compute(chunk.rows(y))).reshape(shape)
    order = router.active.in_order([patch.chunk for patch in patches])
    pieces = [y[rows] if index is None else patches[index].compute(y[rows]) for rows, index in order]
    return torch.cat(pieces).reshape(shape)


def _with_part(y: Tensor, rows: Rows, part: Tensor) -> Tensor:
    """Fused outputs y (… groups · width) with the part that `rows` names replaced."""
    split = y.unflatten(-1, (rows.groups, rows.width))
    inside = part.unflatten(-1, (rows.groups, rows.stop - rows.start))
    pieces = (split[..., : rows.start], inside, split[..., rows.stop :])
    return torch.cat(pieces, dim=-1).flatten(-2)
