"""The loop: steps of one or many runs over one base. It knows no method and no task.

Each run keeps an optimizer, schedule, clipping, seed and early stop of its own; a step is one forward and backward
pass for the rows of all runs. A run whose loss, gradient or validation metric is not finite stops, and the others
go on.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.core.records import not_finite
from graftlm.core.reporter import Progress, Reporter
from graftlm.core.settings import TrainingConfig
from graftlm.training._batches import endless
from graftlm.training._optim import optimizer, schedule

Losses = Callable[[Mapping[str, Sequence[int]], Mapping[str, int]], Mapping[str, Tensor]]
"""({run: its examples of this step}, {run: its step}) -> {run: the loss of each example}."""


@dataclass
class Plan:
    """What one run needs: its tensors, its examples' lengths, its settings, and how it is evaluated.

    `rates` multiplies `rate` for the tensors that it names. `evaluate` gives metrics; `better` says whether a new value
    of the watched metric beats an old one.
    """

    parameters: Mapping[str, nn.Parameter]
    lengths: Sequence[int]
    config: TrainingConfig
    seed: int
    rate: float
    head_rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    evaluate: Callable[[], Mapping[str, float]] | None = None
    metric: str = "loss"
    better: Callable[[float, float], bool] = lambda new, old: new > old
    record: Callable[[Mapping[str, Any]], None] = lambda row: None


@dataclass
class Outcome:
    """How one run ended: its steps, the best evaluation, seconds of training alone, and why it stopped.

    `failed`: a number was not finite, as `stopped` says; the weights are those of the best evaluation before it.
    """

    steps: int = 0
    examples: int = 0
    best: Mapping[str, float] | None = None
    best_step: int = 0
    seconds: float = 0.0
    stopped: str = "done"
    failed: bool = False


@dataclass
class _State:
    """One run under way."""

    plan: Plan
    total: int
    per_epoch: int
    batches: Iterator[list[int]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    outcome: Outcome = field(default_factory=Outcome)
    weights: dict[str, Tensor] = field(default_factory=dict)
    bad: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    active: bool = True
    metric: float | None = None

    @property
    def eval_every(self) -> int:
        return self.plan.config.eval_steps or self.per_epoch


def steps_of(plan: Plan) -> tuple[int, int]:
    """Optimizer steps in all, and in one epoch."""
    config = plan.config
    batches = math.ceil(len(plan.lengths) / config.batch_size)
    per_epoch = max(1, math.ceil(batches / config.accumulation))
    return config.max_steps or max(1, round(config.epochs * per_epoch)), per_epoch


def train(
    losses: Losses, plans: Mapping[str, Plan], accelerator: Accelerator, reporter: Reporter
) -> dict[str, Outcome]:
    """Trains the runs of `plans` together and leaves each with its best weights (its last, where none is evaluated).

    A single run with a number that is not finite raises UserError; among several it stops alone, as its outcome says.
    """
    states = {run: _start(plan) for run, plan in plans.items()}
    total = max(state.total for state in states.values())
    started, evaluating = time.perf_counter(), 0.0
    with reporter.progress("fit", total, unit="steps") as progress:
        for step in range(total):
            active = {run: state for run, state in states.items() if state.active}
            if not active:
                break
            examples = _step(losses, active, step, accelerator)
            for run, state in active.items():
                seconds = time.perf_counter() - started - evaluating
                state.outcome.steps, state.outcome.seconds = step + 1, seconds
                _log(run, state, accelerator)
                before = time.perf_counter()
                _evaluate_or_stop(state)
                evaluating += time.perf_counter() - before
            _show(progress, examples, states)
    for run, state in states.items():
        _finish(run, state, len(states))
    return {run: state.outcome for run, state in states.items()}


def _start(plan: Plan) -> _State:
    total, per_epoch = steps_of(plan)
    made = optimizer(plan.parameters, plan.config, plan.rate, plan.head_rate, plan.rates)
    batches = endless(plan.lengths, plan.config.batch_size, plan.seed)
    return _State(plan, total, per_epoch, batches, made, schedule(made, plan.config, total))


def _step(losses: Losses, states: Mapping[str, _State], step: int, accelerator: Accelerator) -> int:
    """One optimizer step of each active run; gives the number of examples seen."""
    waiting = {
        run: [next(state.batches) for _ in range(state.plan.config.accumulation)] for run, state in states.items()
    }
    sizes = {run: sum(map(len, parts)) for run, parts in waiting.items()}
    sums = dict.fromkeys(states, 0.0)
    for part in range(max(map(len, waiting.values()))):
        rows = {run: parts[part] for run, parts in waiting.items() if part < len(parts)}
        with accelerator.autocast():
            each = losses(rows, dict.fromkeys(rows, step * 1024 + part))
        scaled = {run: loss.sum() / sizes[run] for run, loss in each.items()}
        accelerator.backward(torch.stack(list(scaled.values())).sum())
        for run, loss in scaled.items():
            sums[run] += loss.item()
    for run, state in states.items():
        _update(state, sums[run])
        state.outcome.examples += sizes[run]
    return sum(sizes.values())


def _update(state: _State, loss: float) -> None:
    parameters = [parameter for parameter in state.plan.parameters.values() if parameter.grad is not None]
    limit = state.plan.config.clip or math.inf
    norm = float(nn.utils.clip_grad_norm_(parameters, limit)) if parameters else 0.0
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        _fail(state, what, state.outcome.steps + 1)
        return
    state.optimizer.step()
    state.schedule.step()
    state.optimizer.zero_grad()
    state.loss_sum += loss
    state.loss_steps += 1


def _fail(state: _State, what: str, step: int) -> None:
    outcome = state.outcome
    outcome.stopped = f"{what} at step {step}, learning rate {state.plan.rate:.3g}; a lower rate may help"
    outcome.failed, state.active = True, False
    state.plan.record({"step": step, "seconds": round(outcome.seconds, 3), "stopped": outcome.stopped})


def _log(run: str, state: _State, accelerator: Accelerator) -> None:
    step = state.outcome.steps
    if not state.active or (step % state.plan.config.log_steps and step != state.total):
        return
    row = {
        "step": step,
        "epoch": round(step / state.per_epoch, 4),
        "loss": state.loss_sum / max(1, state.loss_steps),
        "lr": state.schedule.get_last_lr()[0],
        "seconds": round(state.outcome.seconds, 3),
    }
    state.loss_sum, state.loss_steps = 0.0, 0
    state.plan.record(row)
    accelerator.log({f"{run}/{key}": value for key, value in row.items() if key != "step"}, step=step)


def _evaluate_or_stop(state: _State) -> None:
    """Evaluates where it is due, keeps the best weights, and stops at the end, out of patience or of time."""
    plan, outcome = state.plan, state.outcome
    if not state.active:
        return
    late = plan.config.max_seconds is not None and outcome.seconds >= plan.config.max_seconds
    last = outcome.steps >= state.total or late
    if plan.evaluate is not None and (last or outcome.steps % state.eval_every == 0):
        metrics = plan.evaluate()
        bad = not_finite(metrics)
        if bad is not None:
            _fail(state, f"validation {bad}", outcome.steps)
            return
        plan.record({"step": outcome.steps, "seconds": round(outcome.seconds, 3), "metrics": dict(metrics)})
        value = metrics[plan.metric]
        state.metric = value
        if outcome.best is None or plan.better(value, outcome.best[plan.metric]):
            outcome.best, outcome.best_step, state.bad = metrics, outcome.steps, 0
            state.weights = {name: parameter.detach().clone() for name, parameter in plan.parameters.items()}
        else:
            state.bad += 1
    if last:
        state.active = False
        outcome.stopped = "out of time" if late and outcome.steps < state.total else "done"
    elif plan.config.patience and state.bad >= plan.config.patience:
        state.active = False
        outcome.stopped = f"no better {plan.metric} in {state.bad} evaluations"


def _show(progress: Progress, examples: int, states: Mapping[str, _State]) -> None:
    state = next(iter(states.values()))
    numbers: dict[str, float | str] = {"examples": examples}
    if state.loss_steps:
        numbers["loss"] = state.loss_sum / state.loss_steps
    if state.metric is not None:
        numbers[state.plan.metric] = state.metric
    progress.advance(1, **numbers)


@torch.no_grad()
def _finish(run: str, state: _State, runs: int) -> None:
    if state.outcome.failed and runs == 1:
        raise UserError(f'run "{run}" stopped: {state.outcome.stopped}')
    for name, weight in state.weights.items():
        state.plan.parameters[name].copy_(weight)
