"""What memory a training will need, as far as shapes say, and what is free: of a GPU, of the machine, of a container.

Measured on BERT and Llama models in fp32 on a CPU: 18 to 22 numbers a token, layer and unit of width are alive at the
peak of a step, and with gradient checkpointing 4 a layer and about 60 besides.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import torch

from graftlm.core.errors import UserError
from graftlm.core.reporter import Reporter
from graftlm.core.settings import TrainingConfig
from graftlm.methods import MethodConfig, acts
from graftlm.recipes._model import TaskModel
from graftlm.sites import Select, Sites
from graftlm.training import Plan, sorted_batches

A_LAYER, A_LAYER_CHECKPOINTED, BESIDES = 20, 4, 60
A_WEIGHT = 4 * 4  # bytes of a gradient, an optimizer's two moments and the best weights, in fp32
A_PARAMETER = 4 * 4  # bytes of a number that is trained, its gradient and an optimizer's two moments
CGROUPS = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def warn_of_memory(needed: int, device: torch.device, reporter: Reporter) -> None:
    """Warns where a training is likely to need more than is free."""
    free = free_memory(device)
    if needed > free:
        reporter.warn(
            f"training needs about {needed / 1e9:.1f} GB beside the model, and {free / 1e9:.1f} GB are free; a smaller "
            "training.batch_size with more training.accumulation, or training.gradient_checkpointing=true, needs less"
        )


def refuse_oversized(own: Mapping[str, MethodConfig], sites: Sites, device: torch.device) -> None:
    """Refuses a run whose tensors, with a gradient and two moments each, cannot be held, before any is made."""
    free = free_memory(device)
    for run, config in own.items():
        params = [param for act in acts(config, sites) if not isinstance(act, Select) for param in act.params.values()]
        numbers = sum(param.count for param in params)
        if A_PARAMETER * numbers > free:
            raise UserError(
                f"{run} ({config.method}) would train {numbers:,} numbers, which take "
                f"{A_PARAMETER * numbers / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; a smaller rank, length or "
                "bottleneck needs less"
            )


def needed_by(model: TaskModel, run: str, plan: Plan) -> int:
    """Bytes that a run of its own is likely to need beside the model."""
    sites = model.attached.sites
    layers = len(sites.blocks) if model.attached.acts[run] else 1  # a head alone keeps nothing of the layers below
    weights = sum(parameter.numel() for parameter in plan.parameters.values())
    return estimate(plan.config, most_tokens(plan), layers, sites.width) + A_WEIGHT * weights


def most_tokens(plan: Plan) -> int:
    """Those of the largest batch there can be, padding and virtual tokens included."""
    if plan.config.batch_tokens:
        return max(plan.config.batch_tokens, max(plan.lengths))
    batch = sorted_batches(plan.lengths, plan.config.batch_size)[0]
    return len(batch) * plan.lengths[batch[0]]


def estimate(config: TrainingConfig, tokens: int, layers: int, width: int) -> int:
    """Bytes of a forward and backward pass through all layers."""
    numbers = A_LAYER_CHECKPOINTED * layers + BESIDES if config.gradient_checkpointing else A_LAYER * layers
    return numbers * tokens * width * (2 if config.precision == "bf16" else 4)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had: on a GPU its own, else the machine's, or what the containers around the process leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_left(CGROUPS)])


def _left(root: Path) -> Iterator[int]:
    """What is left in each control group, of version 2 or 1, that this process is in and that has a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    folders = {root, root / "memory"}
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind in ("", "memory"):
            folders.add(root / kind / path.lstrip("/"))
    for folder in folders:
        for most, used in LIMITS:
            try:
                limit, now = int((folder / most).read_text()), int((folder / used).read_text())
                yield max(0, limit - now + _cache(folder))
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue


def _cache(folder: Path) -> int:
    """The group's file cache, which is given up when memory is needed."""
    rows = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    return int(rows.get("inactive_file", 0))
