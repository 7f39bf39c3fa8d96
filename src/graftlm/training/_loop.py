"""The loop: steps of one or many runs over one base. It knows no method and no task.

Each run keeps an optimizer, schedule, clipping, seed and early stop of its own; a step is one forward and backward
pass for the rows of all runs. A run whose loss, gradient or validation metric is not finite stops, as does one that is
isolated and fails, and the others go on.
"""

import math
import time
from collections.abc import Mapping

import torch
from accelerate import Accelerator

from graftlm.core.errors import Unwritable
from graftlm.core.records import not_finite
from graftlm.core.reporter import Progress, Reporter
from graftlm.training._keeping import Keeper, Keeping, Leave
from graftlm.training._memory import Passes, first_line
from graftlm.training._processes import Processes
from graftlm.training._state import Outcome, Plan, State, restore, start, steps_at, steps_of
from graftlm.training._step import Losses, diverged, failed, take_step


def train(
    losses: Losses,
    plans: Mapping[str, Plan],
    accelerator: Accelerator,
    reporter: Reporter,
    keeping: Keeping | None = None,
    together: int | None = None,
) -> dict[str, Outcome]:
    """Trains the runs of `plans` together and leaves each with its best weights (its last, where none is evaluated).

    At most `together` at once, in their order: where one ends, the next begins. A run with a number that is not finite
    stops, as its outcome says, and the others go on; so where an isolated run fails. Where memory runs out, fewer go on
    at once. `keeping` says where the training goes on from, and saves it; `Halted` is raised where it asks to stop.
    """
    keeper = Keeper(keeping or Keeping(save=lambda found: None, seconds=math.inf))
    found, passes, processes = keeper.keeping.start, Passes(reporter.warn), Processes(accelerator)
    begun = steps_at(found)
    alone = found is not None and together is None  # then a snapshot of other runs is a mistake
    states = {run: start(plans[run], begun.get(run, 0)) for run in (plans if alone else begun)}
    if found is not None:
        restore(states, found)
        passes.most = found.values["most"]
    waiting = [run for run in plans if run not in states]
    outcomes = {run: state.outcome for run, state in states.items()}
    step, clock = found.step if found is not None else 0, _Clock(keeper)
    left = sum(steps_of(plan) for plan in plans.values()) - sum(outcome.steps for outcome in outcomes.values())
    with reporter.progress("fit", left) as progress:
        _evaluate_due(states, step, clock, keeper, passes, processes)
        while True:
            _end(states, clock)
            room = min(together or len(plans), passes.most or len(plans))
            while waiting and sum(state.active for state in states.values()) < room:
                run = waiting.pop(0)
                states[run] = start(plans[run])
                outcomes[run] = states[run].outcome
            active = {run: state for run, state in states.items() if state.active}
            if not active:
                break
            drawn = take_step(losses, active, step, accelerator, passes, processes)
            step += 1
            _share_time(active, drawn, processes.main(clock.lap()))
            for run, state in active.items():
                _log(run, state, accelerator)
            _evaluate_due(active, step, clock, keeper, passes, processes)
            _show(progress, sum(len(batch) for parts in drawn.values() for batch in parts), active)
            _end(states, clock)
            keeper.after(states, step, passes.most, lambda: processes.any(keeper.keeping.stop()))
    return outcomes


class _Clock:
    """Seconds of training alone."""

    def __init__(self, keeper: Keeper):
        self.besides = 0.0
        self._keeper, self._started, self._told = keeper, time.perf_counter(), 0.0

    def lap(self) -> float:
        """Those since the last lap."""
        now = time.perf_counter() - self._started - self.besides - self._keeper.spent
        self._told, since = now, now - self._told
        return since


def _share_time(states: Mapping[str, State], drawn: Mapping[str, list[list[int]]], seconds: float) -> None:
    """Each run's part of a step's seconds, by its tokens."""
    tokens = {run: sum(states[run].plan.lengths[row] for part in parts for row in part) for run, parts in drawn.items()}
    for run, state in states.items():
        state.outcome.seconds += seconds * tokens[run] / max(1, sum(tokens.values()))


def _log(run: str, state: State, accelerator: Accelerator) -> None:
    step = state.outcome.steps
    if not state.active or (step % state.plan.config.log_steps and step != state.total):
        return
    row = {
        "step": step,
        "epoch": round(state.plan.epochs.at(step), 4),
        "loss": state.loss_sum / max(1, state.loss_steps),
        "lr": state.schedule.get_last_lr()[0],
        "seconds": round(state.outcome.seconds, 3),
    }
    state.loss_sum, state.loss_steps = 0.0, 0
    state.plan.record(row)
    accelerator.log({f"{run}/{key}": value for key, value in row.items() if key != "step"}, step=step)


def _evaluate_due(
    states: Mapping[str, State], step: int, clock: _Clock, keeper: Keeper, passes: Passes, processes: Processes
) -> None:
    """Evaluates the runs whose step is new; one that leaves in the middle is saved as it was before."""
    for state in states.values():
        before = time.perf_counter()
        try:
            if state.due:
                _evaluate_or_stop(state, processes)
                state.due = False
        except Leave:
            keeper.leave(states, step, passes.most)
        except Exception as error:
            if not state.plan.isolated or isinstance(error, Unwritable):
                raise
            failed(state, f"evaluation: {type(error).__name__}: {first_line(error)}", state.outcome.steps)
        spent = time.perf_counter() - before
        clock.besides += spent
        state.outcome.evaluating += spent


def _end(states: dict[str, State], clock: _Clock) -> None:
    """Puts the best weights of runs that have ended in place, and tells those who wait for them."""
    for run, state in list(states.items()):
        if state.active:
            continue
        before = time.perf_counter()
        _finish(state)
        if state.plan.ended is not None:
            state.plan.ended(state.outcome)
            del states[run]
        clock.besides += time.perf_counter() - before


def _evaluate_or_stop(state: State, processes: Processes) -> None:
    """Evaluates where it is due, keeps the best weights, and stops at the end, out of patience or of time."""
    plan, outcome, why = state.plan, state.outcome, None
    late = plan.config.max_seconds is not None and outcome.seconds >= plan.config.max_seconds
    last = outcome.steps >= state.total or late
    if plan.evaluate is not None and (last or plan.evaluations(outcome.steps).is_integer()):
        metrics = processes.said(plan.evaluate())
        bad = not_finite(metrics)
        if bad is not None:
            diverged(state, f"validation {bad}", outcome.steps)
            return
        plan.record({"step": outcome.steps, "seconds": round(outcome.seconds, 3), "metrics": dict(metrics)})
        value = metrics[plan.metric]
        state.metric, why = value, plan.watch(outcome.steps, metrics)
        if outcome.best is None or plan.better(value, outcome.best[plan.metric]):
            outcome.best, outcome.best_step, state.bad = metrics, outcome.steps, 0
            state.weights = {name: parameter.detach().clone() for name, parameter in plan.parameters.items()}
        else:
            state.bad += 1
    if last:
        state.active = False
        outcome.stopped = "out of time" if late and outcome.steps < state.total else "done"
    elif why is not None:
        state.active = False
        outcome.stopped = why
    elif plan.config.patience and state.bad >= plan.config.patience:
        state.active = False
        outcome.stopped = f"no better {plan.metric} in {state.bad} evaluations"


def _show(progress: Progress, examples: int, states: Mapping[str, State]) -> None:
    """Tells how many steps were made, and the numbers of the first run that is under way."""
    state = next(iter(states.values()))
    numbers: dict[str, float | str] = {"examples": examples}
    if state.loss_steps:
        numbers["loss"] = state.loss_sum / state.loss_steps
    if state.metric is not None:
        numbers[state.plan.metric] = state.metric
    progress.advance(len(states), **numbers)


@torch.no_grad()
def _finish(state: State) -> None:
    for name, weight in state.weights.items():
        state.plan.parameters[name].copy_(weight)
