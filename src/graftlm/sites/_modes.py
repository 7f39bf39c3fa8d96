"""Which parts of a frozen base are in training mode: none that drops anything, unless that is asked for."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class Modes:
    """A base's modes while runs are attached; `give_back` sets them as they were."""

    def __init__(self, base: nn.Module):
        self.base = base
        self._before = {name: module.training for name, module in base.named_modules()}
        self._silenced: list[tuple[nn.Module, str, float]] = []

    def train(self, mode: bool, dropout: bool) -> None:
        """Training mode for what must checkpoint, and with `dropout` for what drops; eval mode for all else."""
        for module in self.base.modules():
            module.training = mode and (checkpoints(module) or (dropout and _drops(module)))
        self._speak()
        if mode and not dropout:
            self._silence()

    def _silence(self) -> None:
        """A layer that checkpoints is in training mode, and some drop by numbers of their own, not by modules."""
        for module in filter(checkpoints, self.base.modules()):
            for name, rate in vars(module).items():
                if name.endswith("dropout") and isinstance(rate, float):
                    self._silenced.append((module, name, rate))
        for module, name, _ in self._silenced:
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


def _drops(module: nn.Module) -> bool:
    holds = any(isinstance(child, nn.Dropout) for child in module.children())
    return isinstance(module, nn.Dropout) or holds or type(module).__name__.endswith("Attention")
