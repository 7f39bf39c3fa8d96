"""The last block where one place of each row is read: what works token by token there runs at that place alone.

Queries, the attention's output and the feed-forward of other places reach nothing that is read; what stands behind
the block at those places is left without them. Keys and values are of the whole text, as ever.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graftlm.sites._acts import Act, Branch, Past
from graftlm.sites._modes import checkpoints
from graftlm.sites._one_place import OnePlace
from graftlm.sites._router import Router
from graftlm.sites._sites import Sites
from graftlm.sites._table import Fused

PARTS = (  # the roles where a part begins, and the span with whose end it ends, or None where it is one layer
    (("attention.query",), None),
    (("attention.output",), "span.attention"),
    (("cross.query",), None),
    (("cross.output",), "span.cross"),
    (("feedforward.input", "feedforward.gate"), "span.feedforward"),
)


class LastBlock:
    """The parts of a model's last block that work token by token, where none of the acts needs all of a text there.

    A role inside a fused layer, whose other parts are read everywhere, is no part.
    """

    def __init__(self, sites: Sites, acts: Mapping[str, Sequence[Act]], router: Router):
        self._sites, self._router = sites, router
        self._parts = _parts(sites)
        if self._parts and any(_whole(act, sites) for own in acts.values() for act in own):
            self._parts = []

    @contextmanager
    def at(self, place: OnePlace) -> Iterator[None]:
        """Inside, only the states at one place of each row are right behind the last block."""
        block = self._sites.model.get_submodule(_last(self._sites)) if self._parts else None
        again = block is not None and block.training and checkpoints(block)  # by then it is outside of this `with`
        hooks = [] if again else [hook for begin, end in self._parts for hook in self._hooked(begin, end, place)]
        try:
            yield
        finally:
            self._router.place = None
            for hook in hooks:
                hook.remove()

    def _hooked(self, begin: Collection[str], end: str, place: OnePlace) -> list[RemovableHandle]:
        def take(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not place.fits(args[0]):
                return None
            self._router.place = place
            return (place.take(args[0]), *args[1:])

        def put(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            if self._router.place is None:
                return y
            self._router.place = None
            return place.put(y)

        module = self._sites.model.get_submodule
        first = [module(path).register_forward_pre_hook(take) for path in begin]
        return [*first, module(end).register_forward_hook(put)]


def _parts(sites: Sites) -> list[tuple[set[str], str]]:
    """The paths of the layers where each part of the last block begins, and of the one where it ends."""
    if sites.table is None or any(stack.calls for stack in sites.table.stacks.values()):
        return []
    block, stack = _last(sites), list(sites.table.stacks.values())[-1]
    modules = {role: path.module if isinstance(path, Fused) else path for role, path in stack.layer.items()}
    found: list[tuple[set[str], str]] = []
    for begin, span in PARTS:
        first = {modules[role] for role in begin if role in modules}
        if {role for role, module in modules.items() if module in first}.issubset(begin) and first:
            end = stack.spans[span].exit if span else modules[begin[0]]
            found.append(({f"{block}.{path}" for path in first}, f"{block}.{end}"))
    return found


def _last(sites: Sites) -> str:
    """The path of the block that the last states come out of."""
    return list(sites.stacks.values())[-1][-1]


def _whole(act: Act, sites: Sites) -> bool:
    """Whether an act needs all of a text in the last block, as a gate there does."""
    if isinstance(act, Branch):
        return bool(act.whole_text) and act.site.module.startswith(f"{_last(sites)}.")
    return isinstance(act, Past) and bool(act.whole_text)
