"""One training in several processes: each takes its part of every batch, and all take the same steps.

The gradient of a step is a sum over its examples, divided by how many those of all processes are; so the parts may
differ in size, and only rounding tells the result from that of one process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn


class Processes:
    """Those that `accelerate launch` has started, or this one alone."""

    def __init__(self, accelerator: Accelerator):
        self.count, self.place = accelerator.num_processes, accelerator.process_index
        self._device = accelerator.device

    def part(self, rows: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch; none of it where there are fewer examples than processes."""
        if self.count == 1:
            return rows
        first, last = (len(rows) * place // self.count for place in (self.place, self.place + 1))
        return rows[first:last]

    def summed(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Replaces gradients, and gives the loss, by their sums over all processes.

        A tensor that no process has a gradient for keeps none.
        """
        if self.count == 1:
            return loss
        known = self._sum([float(parameter.grad is not None) for parameter in parameters] + [loss])
        used = [parameter for parameter, count in zip(parameters, known, strict=False) if count]
        for own in _by_type(used):
            flat = torch.cat([_gradient(parameter).flatten() for parameter in own])
            torch.distributed.all_reduce(flat)
            for parameter, part in zip(own, flat.split([parameter.numel() for parameter in own]), strict=True):
                parameter.grad = part.view_as(parameter)
        return known[-1]

    def main(self, seconds: float) -> float:
        """The main process's seconds."""
        return seconds if self.count == 1 else self._sum([seconds if self.place == 0 else 0.0])[0]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.count == 1 else self._sum([float(flag)])[0] > 0

    def said(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The main process's metrics."""
        if self.count == 1:
            return metrics
        box: list[Any] = [dict(metrics)]
        broadcast_object_list(box)
        return box[0]

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        tensor: Tensor = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def _by_type(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    found: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(parameter.dtype, []).append(parameter)
    return list(found.values())
