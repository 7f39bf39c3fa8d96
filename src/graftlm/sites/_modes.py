"""Which parts of a frozen base are in training mode: none that drops anything, unless that is asked for.

Layers are never left out whole (LayerDrop): a method on one would have no gradient.
"""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class Modes:
    """A base's modes while runs are attached; `give_back` sets them as they were."""

    def __init__(self, base: nn.Module):
        self.base = base
        self._before = {name: module.training for name, module in base.named_modules()}
        self._silenced: list[tuple[nn.Module, str, float]] = []

    def train(self, mode: bool, dropout: bool) -> None:
        """Training mode with `dropout` for all, else for what must checkpoint; eval mode for the rest."""
        self._speak()
        for module in self.base.modules():
            module.training = mode and (dropout or checkpoints(module))
            if module.training:
                self._silence(module, "layerdrop" if dropout else "dropout")

    def _silence(self, module: nn.Module, ending: str) -> None:
        """A module that drops by a number of its own drops nothing."""
        for name, rate in list(vars(module).items()):
            if name.endswith(ending) and isinstance(rate, float):
                self._silenced.append((module, name, rate))
                setattr(module, name, 0.0)

    def _speak(self) -> None:
        for module, name, rate in self._silenced:
            setattr(module, name, rate)
        self._silenced.clear()

    def give_back(self) -> None:
        """Once the base has its own modules again."""
        self._speak()
        for name, module in self.base.named_modules():
            module.training = self._before[name]


def checkpoints(module: nn.Module) -> bool:
    """Whether a module computes its states again in the backward pass, where it is in training mode."""
    return isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
