"""Quick kernels in a frozen base: its linear layers' products and its attention, chosen for this machine."""

from types import MethodType
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
            module.forward = MethodType(_forward(module, frozen(weight, kernel)), module)
            self._modules.append(module)

    def undo(self) -> None:
        """Gives the modules their own products back."""
        for handle in self._watched:
            handle.remove()
        for module in self._modules:
            del module.forward
        _attention.give_back(self._before)
        self._modules, self._before, self._watched = [], [], []


def _forward(of: nn.Module, made: Frozen) -> Any:
    """A method that computes by the products that are `made`, where the module still has the weight of them.

    A copy of the module, and one that is given another weight, computes as its class does.
    """
    plain: Any = type(of).forward
    weight: Any = of.weight
    data = weight.detach()

    def forward(module: Any, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return plain(module, x)
        same = module.weight is weight and weight.data_ptr() == data.data_ptr()
        return made(x, module.bias) if same and x.dtype == data.dtype else plain(module, x)

    return forward
