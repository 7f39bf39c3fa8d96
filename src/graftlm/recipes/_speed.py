"""How the frozen base is computed: by kernels chosen for this machine, and once where it would be computed again."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from graftlm.core.reporter import Reporter
from graftlm.core.settings import TrainingConfig, precision_of
from graftlm.kernels import current
from graftlm.recipes._bottom import SHARE, Bottom, depth
from graftlm.recipes._memory import free_memory
from graftlm.recipes._model import TaskModel
from graftlm.sites import Past, Select
from graftlm.tasks import Features, SequenceHead, TokenHead, collate
from graftlm.training import Plan


def lower(model: TaskModel, precision: str, reporter: Reporter) -> None:
    """Puts the base of a model that is only asked into bf16, where that is the precision; fp32 changes nothing."""
    if precision_of(precision) == "bf16":
        model.attached.halve()
        warn_of_bf16(model, reporter)


def warn_of_bf16(model: TaskModel, reporter: Reporter) -> None:
    """Says so where this processor takes longer for products in bf16 than in fp32, as many without AMX do."""
    if model.attached.device.type != "cpu":
        return
    first = next((module for module in model.attached.base.modules() if isinstance(module, nn.Linear)), None)
    if first is not None and current().precision(first.weight) == "float32":
        reporter.warn("bf16 takes longer than fp32 on this processor; precision fp32 would be quicker")


def choose_kernels(model: TaskModel, config: TrainingConfig, plans: dict[str, Plan]) -> None:
    """Sets `model.kernels`; what the runs' rows will need is measured now, so that nothing is later."""
    if config.kernels == "torch":
        return
    sites, choices = model.attached.sites, current()
    choices.asked.clear()
    layers = model.attached.quicken(pack=config.kernels == "packed")
    longest = max(_front(model, run) + max(plan.lengths) for run, plan in plans.items())
    parts = sites.parts if sites.table is not None and model.attached.device.type == "cpu" else ()
    for width in {one.head_width for part in parts for one in sites.attentions(part)}:
        choices.prepare(next(model.base.model.parameters()).dtype, width, longest)
    model.kernels = {"layers": layers, "choices": dict(sorted(choices.asked.items()))}


def keep_bottom(
    model: TaskModel, config: TrainingConfig, plans: dict[str, Plan], rows: Sequence[Features], reporter: Reporter
) -> None:
    """Sets `model.bottom` to what stands below all runs, where a run meets its rows often enough and it fits.

    A base that is cast to bf16 in training, and not in evaluation, gives two different states for a row: none is kept.
    """
    plain = config.cache == "auto" and not config.gradient_checkpointing and not config.base_dropout
    trained = any(isinstance(act, Select) for run in model.attached.runs for act in model.attached.acts[run])
    cast = trained and config.precision == "bf16"
    if not plain or cast or not isinstance(model.head, (SequenceHead, TokenHead)):
        return
    sites = model.attached.sites
    below = min(depth(model.attached.acts[run], sites) for run in model.attached.runs)
    if below == 0 or max(map(_passes, plans.values())) < 2:
        return
    bottom = Bottom(model.attached, below)
    if bottom.bytes_of(rows) > free_memory(model.attached.device) // SHARE:
        return
    extra = {"use_cache": False} if hasattr(sites.config, "use_cache") else {}

    def batched(own: Sequence[Features]) -> dict[str, Any]:
        return collate([(row, ()) for row in own], model.base.pad_id, model.attached.device) | extra

    bottom.keep(rows, batched, reporter)
    model.bottom = bottom


def _front(model: TaskModel, run: str) -> int:
    """How many keys a run's prefixes put before its tokens."""
    return sum(act.length for act in model.attached.acts[run] if isinstance(act, Past))


def _passes(plan: Plan) -> float:
    """How often a training meets each example, at most."""
    config = plan.config
    return config.epochs if config.max_steps is None else config.max_steps / plan.epochs.end(1)
