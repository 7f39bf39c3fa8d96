"""Optimizers and schedules by name: any of torch's, and Transformers' schedules."""

import inspect
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from graftlm.core.errors import UserError, unknown
from graftlm.core.settings import TrainingConfig

UNUSABLE = ("lbfgs", "sparseadam")  # which need a closure, and sparse gradients


def optimizers() -> dict[str, type[Optimizer]]:
    """torch's optimizers by lower-case name, those that fit the loop."""
    found = {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }
    return {name: value for name, value in found.items() if name not in UNUSABLE}


def optimizer(
    parameters: Mapping[str, nn.Parameter],
    config: TrainingConfig,
    rate: float,
    head_rate: float,
    rates: Mapping[str, float] | None = None,
    decayed: Collection[str] = (),
) -> Optimizer:
    """One run's optimizer. Vectors (biases, norms, scales) are not decayed, but for those that `decayed` names.

    The head has its own rate; `rates` multiplies the rate of the tensors that it names. torch's fused kernels, where
    it has them, ignore strides, so they step the groups alone whose tensors have no gaps between their numbers.
    """
    known = optimizers()
    if config.optimizer not in known:
        raise unknown("optimizer", config.optimizer, known)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.weight_decay if parameter.dim() > 1 or name in decayed else 0.0
        key = (head_rate if name.startswith("head.") else rate * (rates or {}).get(name, 1.0), decay)
        groups.setdefault(key, []).append(parameter)
    try:
        make: Any = known[config.optimizer]
        fuses = "fused" in inspect.signature(make).parameters
        return make(
            [
                {"params": own, "lr": lr, "weight_decay": decay}
                | ({"fused": True} if fuses and all(parameter.is_contiguous() for parameter in own) else {})
                for (lr, decay), own in groups.items()
            ]
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {config.optimizer} cannot be used here: {error}") from None


def schedule(of: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    """Warm-up over a fraction of the steps, rounded up, then linear to zero, cosine to zero, or constant.

    A single step has none, since the first one of a warm-up has a rate of 0.
    """
    warmup = math.ceil(config.warmup * steps) if steps > 1 else 0
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return get_scheduler(name, of, num_warmup_steps=warmup, num_training_steps=steps)


def optimizer_state(of: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's tensors by "place.name", and its numbers, as JSON takes them."""
    body = of.state_dict()
    rows: dict[int, dict[str, Any]] = body["state"]
    tensors = {
        f"{place}.{name}": value for place, row in rows.items() for name, value in row.items() if torch.is_tensor(value)
    }
    numbers = {
        str(place): {name: value for name, value in row.items() if not torch.is_tensor(value)}
        for place, row in rows.items()
    }
    groups = [{name: value for name, value in group.items() if _plain(value)} for group in body["param_groups"]]
    return tensors, {"state": numbers, "groups": groups}


def restore_optimizer(of: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Puts a fresh optimizer of the same tensors and settings where the saved one was.

    The tensors may lie otherwise in memory: a group is fused where both were.
    """
    body = of.state_dict()
    state: dict[int, dict[str, Any]] = {int(place): dict(row) for place, row in numbers["state"].items()}
    for key, value in tensors.items():
        place, _, name = key.partition(".")
        state[int(place)][name] = value
    groups = [_group(fresh, saved) for fresh, saved in zip(body["param_groups"], numbers["groups"], strict=True)]
    of.load_state_dict({"state": state, "param_groups": groups})


def _group(fresh: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    both = {"fused": fresh["fused"] and saved.get("fused")} if "fused" in fresh else {}
    return {**fresh, **saved, **both}


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))
