"""Routes: which rows of a batch belong to which run, and how a bank's runs meet their rows."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from graftlm.core.errors import UserError, unknown


@dataclass
class Chunk:
    """Rows `start:stop` of a batch, or those at `places` where they lie scattered, and which of a bank's runs they are.

    Either `runs` runs from `first` with equally many rows each (`index` is None), or `index` (rows) says
    for each row which run it belongs to. `whole` says that the chunk is the whole batch.
    `before` and `own` hold nothing but their lengths, the rows before the chunk and its own: torch.compile takes
    a tensor's length as a variable, and a number that it reads from a module as a constant to recompile for.
    `stretches` says which of the route's stretches these rows are, whatever the stretches' lengths.
    """

    stretches: range
    before: Tensor
    own: Tensor
    first: int
    runs: int
    index: Tensor | None
    whole: bool
    places: Tensor | None = None

    @property
    def start(self) -> int:
        return self.before.shape[0]

    @property
    def stop(self) -> int:
        return self.before.shape[0] + self.own.shape[0]

    def rows(self, x: Tensor) -> Tensor:
        """This chunk's rows of x (rows …)."""
        if self.places is not None:
            return x.index_select(0, self.places)
        return x if self.whole else x[self.start : self.stop]

    def put(self, x: Tensor, rows: Tensor) -> Tensor:
        """x (rows …) with this chunk's rows replaced; the bits of all others stay."""
        places = self.places
        if places is None:
            places = torch.arange(self.start, self.stop, device=x.device)
        return x.index_copy(0, places, rows)

    def by_run(self, x: Tensor) -> Tensor:
        """This chunk's rows (rows tokens d) as (n, rows of a run · tokens, d); n is the rows where `index` is set."""
        lead = self.runs if self.index is None else self.index.shape[0]
        return x.reshape(lead, -1, x.shape[-1])

    def pick(self, values: Tensor) -> Tensor:
        """The runs' values (bank's n …) -> (n …), n as in `by_run`."""
        if self.index is not None:
            return values.index_select(0, self.index)
        if self.runs == values.shape[0]:
            return values
        return values[self.first : self.first + self.runs]

    def spread(self, values: Tensor, rows: int) -> Tensor:
        """The runs' values (bank's n …) as a value a row (rows …)."""
        picked = self.pick(values)
        if self.index is not None:
            return picked
        each = rows // self.runs
        return picked[:, None].expand(-1, each, *picked.shape[1:]).flatten(0, 1)


@dataclass
class Route:
    """A batch's rows in order: the name of each row's run, or None for the bare base.

    `keys` (rows), int64, seed the methods' dropout; without them dropout draws from torch's global generator.
    A `uniform` route has one name, which stands for every row of a batch of any size. `shifts` and `chunks` are
    what the router worked out of the names: positions (rows 1) of each stack, and rows for each bank. `stretches`
    counts the stretches of rows whose runs are in the same banks: it says the same of longer stretches, and of other
    runs in them, so that a compiled step takes a longer batch of the same kind for the batch that it knows.
    """

    names: tuple[str | None, ...]
    keys: Tensor | None = None
    uniform: bool = False
    shifts: dict[str, Tensor | int | None] = field(default_factory=dict)
    chunks: dict[tuple[str, ...], list[Chunk]] = field(default_factory=dict, repr=False)
    stretches: int = field(init=False, repr=False)
    _kinds: Sequence[Hashable] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._kinds = self.names
        self.stretches = _count(self.names)

    def check(self, known: Sequence[str]) -> None:
        for name in self.names:
            if name is not None and name not in known:
                raise unknown("adapter", name, known)

    def repeated(self, batch: int) -> "Route":
        """The route for a batch in which each row stands several times in a row, as in beam search."""
        times, rest = divmod(batch, len(self.names))
        if rest or not times:
            raise UserError(f"the route names {len(self.names)} rows, but the batch has {batch}")
        keys = None if self.keys is None else self.keys.repeat_interleave(times)
        return Route(tuple(name for name in self.names for _ in range(times)), keys)

    def prepare(self, memberships: Collection[tuple[str, ...]], device: torch.device) -> None:
        """Makes the plans for all banks there are, given the runs of each."""
        kinds = {name: tuple(name in members for members in memberships) for name in set(self.names)}
        found = tuple(kinds[name] for name in self.names)
        if found != self._kinds:
            self._kinds, self.stretches, self.chunks = found, _count(found), {}
        for members in memberships:
            self.plan(members, device)

    def plan(self, members: tuple[str, ...], device: torch.device) -> list[Chunk]:
        """The chunk for a bank of some runs: the rows whose runs are in it, or none.

        Rows that lie scattered are taken run after run, so that a batch in which runs alternate is as quick, and
        compiles as well, as one in which each run's rows stand together.
        """
        if members not in self.chunks:
            self.chunks[members] = self._plan(members, device)
        return self.chunks[members]

    def _plan(self, members: tuple[str, ...], device: torch.device) -> list[Chunk]:
        place = {name: index for index, name in enumerate(members)}
        if self.uniform:
            name = self.names[0]
            nothing = _length(0)
            return [Chunk(range(1), nothing, nothing, place[name], 1, None, True)] if name in place else []
        found: list[Chunk] = []
        row = stretch = 0
        for inside, group in groupby(zip(self.names, self._kinds, strict=True), key=lambda row: row[0] in place):
            names, kinds = zip(*group, strict=True)
            stop = stretch + _count(kinds)
            if inside:
                runs = [place[name] for name in names if name is not None]
                whole = len(names) == len(self.names)
                found.append(_chunk(range(stretch, stop), row, runs, whole, device))
            row, stretch = row + len(names), stop
        return found if len(found) < 2 else [_scattered(self.names, place, device)]

    def in_order(self, chunks: Sequence[Chunk]) -> list[tuple[slice, int | None]]:
        """The whole batch as rows, each with the index of the chunk that they are, or None for rows of no chunk."""
        found: list[tuple[slice, int | None]] = []
        row = stretch = 0
        for index in sorted(range(len(chunks)), key=lambda index: chunks[index].stretches.start):
            chunk = chunks[index]
            if chunk.stretches.start > stretch:
                found.append((slice(row, chunk.start), None))
            found.append((slice(chunk.start, chunk.stop), index))
            row, stretch = chunk.stop, chunk.stretches.stop
        if stretch < self.stretches:
            found.append((slice(row, None), None))
        return found


def _chunk(stretches: range, row: int, runs: list[int], whole: bool, device: torch.device) -> Chunk:
    before, own = _length(row), _length(len(runs))
    first, last = runs[0], runs[-1]
    count = last - first + 1
    if count > 0 and len(runs) % count == 0:
        each = len(runs) // count
        if runs == [first + index // each for index in range(len(runs))]:
            return Chunk(stretches, before, own, first, count, None, whole)
    return Chunk(stretches, before, own, 0, len(runs), torch.tensor(runs, device=device), whole)


def _scattered(names: Sequence[str | None], place: Mapping[str, int], device: torch.device) -> Chunk:
    rows = sorted((place[name], row) for row, name in enumerate(names) if name is not None and name in place)
    chunk = _chunk(range(0), 0, [run for run, _ in rows], False, device)
    return replace(chunk, places=torch.tensor([row for _, row in rows], device=device))


def _count(kinds: Iterable[Hashable]) -> int:
    """How many stretches of equal kinds there are."""
    return sum(1 for _ in groupby(kinds))


def _length(size: int) -> Tensor:
    return torch.empty(size, 0)
