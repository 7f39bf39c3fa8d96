"""Quick kernels in a frozen base: its linear layers' products and its attention, chosen for this machine."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.kernels import Frozen, current, frozen, keep_freed, recomputable, watch
from graftlm.sites import _attention
from graftlm.sites._sites import Sites


class Quick:
    """The base's frozen linear layers and, in families with a table, attention computed quickly until `undo`.

    `pack` allows twice the weights' memory for packed forms of them. `kernels` says by which kernel each layer runs.
    """

    def __init__(self, sites: Sites, pack: bool = False):
        if sites.model.device.type == "cpu":
            keep_freed()
        self.kernels: dict[str, str] = {}
        self._modules: list[nn.Module] = []
        self._before: list[tuple[Any, str]] = []
        self._watched = [watch(module) for module in sites.model.modules() if recomputable(module)]
        for path, module in sites.model.named_modules():
            if type(module) in (nn.Linear, Conv1D) and not module.weight.requires_grad:
                self._install(path.replace(".inner", ""), module, pack)
        if sites.table is not None and sites.model.device.type == "cpu":
            self._before = _attention.take_over(sites.model, _attention.QUICK)

    def _install(self, path: str, module: nn.Module, pack: bool) -> None:
        weight: Any = module.weight
        weight = weight.detach().T if isinstance(module, Conv1D) else weight.detach()
        kernel = current().linear(weight, pack)
        self.kernels[path] = kernel
        if kernel != "torch":
            module.forward = _forward(module, frozen(weight, kernel), weight.dtype)
            self._modules.append(module)

    def undo(self) -> None:
        """Gives the modules their own products back."""
        for handle in self._watched:
            handle.remove()
        for module in self._modules:
            del module.forward
        _attention.give_back(self._before)
        self._modules, self._before, self._watched = [], [], []


def _forward(module: nn.Module, made: Frozen, dtype: torch.dtype) -> Any:
    plain = type(module).forward
    bias: Any = module.bias

    def forward(x: Tensor) -> Tensor:
        if x.dtype != dtype or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return plain(module, x)
        return made(x, bias)

    return forward
