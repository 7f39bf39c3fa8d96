"""Banks: the tensors of n runs at one place, stacked on a leading run axis, with a parameter view for each run.

Autograd sees one leaf a tensor whatever n is. Shapes that differ (ranks, lengths) are zero-padded, which is
exact for maths that is linear in the padded axis; lengths are masked.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites._acts import Param
from graftlm.sites._route import Chunk


class Bank(nn.Module):
    """n runs' tensors of one method at one place.

    `runs` are their names in the order of the leading axis; `tensors()` maps a name to (n, largest shape).
    `views[run][name]` is the run's own slice, an ordinary parameter whose `.grad` is filled after each backward
    pass for the runs of `live()`, so that any optimizer can hold it.
    """

    def __init__(
        self,
        params: Mapping[str, Mapping[str, Param]],
        constants: Mapping[str, Mapping[str, float]],
        generator: Callable[[str, str], torch.Generator],
        live: Callable[[], Collection[str | None]],
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__()
        self.runs = tuple(params)
        self.names = tuple(params[self.runs[0]])
        self.views: dict[str, dict[str, nn.Parameter]] = {run: {} for run in self.runs}
        self._live = live
        self._remembered: dict[str, tuple[Any, Tensor]] = {}
        self._shapes = {run: {name: params[run][name].shape for name in self.names} for run in self.runs}
        for name in self.names:
            sizes = [params[run][name].shape for run in self.runs]
            stacked = _room(name, (len(self.runs), *map(max, zip(*sizes, strict=True))), dtype, device)
            for index, (run, shape) in enumerate(zip(self.runs, sizes, strict=True)):
                view = _slice(stacked, index, shape)
                view.copy_(params[run][name].init(generator(run, name)))
                if params[run][name].trained:
                    self.views[run][name] = nn.Parameter(view)
            trained = params[self.runs[0]][name].trained
            tensor = nn.Parameter(stacked, requires_grad=trained)
            self.register_parameter(f"tensor_{name}", tensor)
            if trained:
                tensor.register_post_accumulate_grad_hook(_sharing(ref(self), name))
        self.constants = tuple(constants[self.runs[0]])
        for name in self.constants:
            values = torch.tensor([constants[run][name] for run in self.runs], dtype=dtype, device=device)
            self.register_buffer(f"constant_{name}", values, persistent=False)

    def share(self, name: str, parameter: Tensor) -> None:
        """Hands each live run its slice of a fresh gradient, added to what it has gathered since it was cleared."""
        gradient, parameter.grad = parameter.grad, None
        live = self._live()
        for index, run in enumerate(self.runs):
            if gradient is None or run not in live:
                continue
            view = self.views[run][name]
            own = _slice(gradient, index, view.shape)
            if view.grad is None:
                view.grad = own
            else:
                view.grad.add_(own)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Bank":
        super()._apply(fn, recurse)
        for name, parameter in self.tensors().items():
            for index, run in enumerate(self.runs):
                if (view := self.views[run].get(name)) is not None:
                    view.data = _slice(parameter.data, index, view.shape)
        return self

    def of(self, run: str, name: str) -> Tensor:
        """One run's tensor, trained or not."""
        if (view := self.views[run].get(name)) is not None:
            return view
        return _slice(self.get_parameter(f"tensor_{name}"), self.runs.index(run), self._shapes[run][name]).detach()

    def tensors(self) -> dict[str, nn.Parameter]:
        """The stacked tensors, (n …) each."""
        return {name: self.get_parameter(f"tensor_{name}") for name in self.names}

    def constant(self, name: str) -> Tensor:
        """A number of each run, (n)."""
        return self.get_buffer(f"constant_{name}")

    def every(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """The tensors and constants of all runs, (n …) each, in `dtype` where one is given."""
        out: dict[str, Tensor] = {**self.tensors(), **{name: self.constant(name) for name in self.constants}}
        return out if dtype is None else {name: tensor.to(dtype) for name, tensor in out.items()}

    def take(self, chunk: Chunk, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """The tensors and constants of a chunk's runs, (n …) each, in `dtype` where one is given."""
        out = {name: chunk.pick(tensor) for name, tensor in self.every(None).items()}
        return out if dtype is None else {name: tensor.to(dtype) for name, tensor in out.items()}

    def forget(self) -> None:
        self._remembered.clear()

    def remembered(
        self, name: str, dtype: torch.dtype | None, make: Callable[[Mapping[str, Tensor]], Tensor]
    ) -> Tensor:
        """What `make` gives for all runs, made again only after a tensor was written to.

        What was made in inference mode is not used outside of it, where autograd would refuse it.
        """
        state = (
            dtype,
            torch.is_inference_mode_enabled(),
            *((tensor.data_ptr(), tensor._version) for tensor in self.tensors().values()),
        )
        if name not in self._remembered or self._remembered[name][0] != state:
            self._remembered[name] = (state, make(self.every(dtype)))
        return self._remembered[name][1]


def _sharing(bank: ReferenceType[Bank], name: str) -> Callable[[Tensor], None]:
    """A tensor's hook, which holds its bank weakly: no cycle through a tensor's hooks is ever collected."""

    def share(parameter: Tensor) -> None:
        if (own := bank()) is not None:
            own.share(name, parameter)

    return share


def _room(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    try:
        return torch.zeros(*shape, dtype=dtype, device=device)
    except (RuntimeError, OverflowError, TypeError):  # torch has one for each way of being too large
        size = " × ".join(f"{length:,}" for length in shape)
        raise UserError(f'tensor "{name}" of {size} numbers does not fit into memory; take a smaller one') from None


def _slice(stacked: Tensor, index: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    return stacked[(index, *(slice(0, size) for size in shape))]
