"""The frozen part below everything that a run trains: computed once for each example, and kept in memory.

What is kept is what the blocks below the lowest act give at each real token, in the base's own precision; nothing is
left out or rounded. It is made in one pass before the first step, so that a run that goes on finds the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from graftlm.core.reporter import Reporter
from graftlm.sites import Act, Attached, Past, Select, Sites, Tokens
from graftlm.tasks import Features
from graftlm.training import sorted_batches

Key = tuple[tuple[int, ...], tuple[int, ...]]
BATCH = 64
SHARE = 4  # of the free memory, one in so many bytes is the most that is taken


def depth(acts: Sequence[Act], sites: Sites) -> int:
    """How many blocks stand below the lowest place where a run acts.

    All of them where it trains only what reads the last hidden states: a head, or the pooler. A final norm makes those,
    so that what stands below it is what the last block is given.
    """
    if sites.table is None or sites.encoder_decoder or any(stack.calls for stack in sites.table.stacks.values()):
        return 0
    return min((_below(act, sites) for act in acts), default=len(sites.blocks))


def _below(act: Act, sites: Sites) -> int:
    if isinstance(act, Tokens) or (isinstance(act, Past) and act.position_shift):
        return 0
    if isinstance(act, Past):
        return min(_block(one.module, sites) for one in act.attentions)
    return _block(act.parameter if isinstance(act, Select) else act.site.module, sites)


def _block(path: str, sites: Sites) -> int:
    for place, block in enumerate(sites.blocks):
        if path.startswith(f"{block}."):
            return place
    if _order(path, sites) < _order(sites.blocks[0], sites):
        return 0
    pools = any(f"{path}.".startswith(f"{pooler}.") for pooler in sites.poolers)
    return len(sites.blocks) if pools else len(sites.blocks) - 1


def _order(path: str, sites: Sites) -> int:
    """Where a module, or a parameter's module, stands in the model: embeddings before blocks, what pools after."""
    names = [name.replace(".inner", "") for name, _ in sites.model.named_modules()]
    while path not in names:
        path = path.rpartition(".")[0]
    return names.index(path)


class Bottom:
    """What the lowest `depth` blocks give for each row that was `keep`t; use it in place of the attached model."""

    def __init__(self, attached: Attached, depth: int):
        self.depth, self.seconds = depth, 0.0
        self._attached = attached
        self._blocks = [attached.base.get_submodule(path) for path in attached.sites.blocks]
        self._kept: dict[Key, Tensor] = {}
        self._parts = 0  # of a block's output, where that is a tuple

    def bytes_of(self, rows: Sequence[Features]) -> int:
        """What keeping some rows takes."""
        size = next(self._attached.base.parameters()).element_size()
        return sum(len(ids) for ids, _ in {_key(row) for row in rows}) * self._attached.sites.width * size

    @torch.no_grad()
    def keep(
        self, rows: Sequence[Features], batched: Callable[[Sequence[Features]], dict[str, Any]], reporter: Reporter
    ) -> None:
        """Computes rows (in batches that `batched` makes) up to the lowest act."""
        started = time.perf_counter()
        missing = list({key: row for row in rows if (key := _key(row)) not in self._kept}.values())
        self._attached.eval()
        with self._attached.disabled(), reporter.progress("cache", len(missing), unit="examples") as progress:
            for places in sorted_batches([len(row.ids) for row in missing], BATCH):
                own = [missing[place] for place in places]
                hidden = self._reached(batched(own))
                for row, states in zip(own, hidden, strict=True):
                    self._kept[_key(row)] = states[: len(row.ids)].clone()
                progress.advance(len(own))
        self.seconds += time.perf_counter() - started

    def __call__(self, rows: Sequence[Features], batch: dict[str, Any]) -> Tensor:
        """The last hidden states (b t d) of a right-padded batch of rows, in which no prompt stands."""
        if any(_key(row) not in self._kept for row in rows):
            return self._attached(**batch).last_hidden_state
        hidden = pad_sequence([self._kept[_key(row)] for row in rows], batch_first=True)
        if self.depth == len(self._blocks):
            self._attached.meet(**batch)
            return hidden
        with self._from(hidden):
            return self._attached(**batch).last_hidden_state

    def _reached(self, batch: dict[str, Any]) -> Tensor:
        """The states that go into the first block above, or the last ones of all."""
        if self.depth == len(self._blocks):
            return self._attached(**batch).last_hidden_state

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(args[0] if args else kwargs["hidden_states"])

        def count(module: nn.Module, args: Any, output: Any) -> None:
            self._parts = len(output) if isinstance(output, tuple) else 0

        hooks = [
            self._blocks[self.depth].register_forward_pre_hook(stop, with_kwargs=True),
            self._blocks[self.depth - 1].register_forward_hook(count),
        ]
        try:
            self._attached(**batch)
        except _Reached as reached:
            return reached.hidden
        finally:
            for hook in hooks:
                hook.remove()
        raise AssertionError("a block was not reached")

    @contextmanager
    def _from(self, hidden: Tensor) -> Iterator[None]:
        """The blocks below pass on what they are given, and the first one above is given `hidden`."""

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        def passing(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states, *[None] * (self._parts - 1)) if self._parts else hidden_states

        hook = self._blocks[self.depth].register_forward_pre_hook(enter, with_kwargs=True)
        below = self._blocks[: self.depth]
        for block in below:
            block.forward = passing
        try:
            yield
        finally:
            for block in below:
                del block.forward
            hook.remove()


class _Reached(Exception):
    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden


def _key(row: Features) -> Key:
    return tuple(row.ids), tuple(row.types or ())
