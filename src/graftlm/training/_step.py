"""One optimizer step of each active run: in one pass, in more where memory runs out, without a run that fails."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from graftlm.core.errors import Unwritable, UserError
from graftlm.training._memory import Passes, cut, first_line, out_of_memory, too_large
from graftlm.training._processes import Processes
from graftlm.training._state import State
from graftlm.training._widths import alike, batch_sizes

Losses = Callable[[Mapping[str, Sequence[int]], Mapping[str, int]], Mapping[str, Tensor]]
"""({run: its examples of this pass}, {run: a number of its step}) -> {run: the loss of each example}."""
Pass = Callable[[Sequence[str]], Mapping[str, float]]


def take_step(
    losses: Losses,
    states: Mapping[str, State],
    step: int,
    accelerator: Accelerator,
    passes: Passes,
    processes: Processes,
) -> dict[str, list[list[int]]]:
    """One step of each run; gives the examples that were drawn for it, a batch for each of its passes."""
    drawn = {run: next(state.batches) for run, state in states.items()}
    own = {run: [processes.part(batch) for batch in parts] for run, parts in drawn.items()}
    sizes = {run: sum(map(len, parts)) for run, parts in drawn.items()}

    def pass_of(runs: Sequence[str]) -> Mapping[str, float]:
        return _pass(losses, {run: own[run] for run in runs}, sizes, states, accelerator)

    def groups(runs: Sequence[str]) -> list[list[str]]:
        """Runs that share a pass: alike in length, and as many as memory holds."""
        rows = batch_sizes({run: own[run] for run in runs}, {run: states[run].plan.lengths for run in runs})
        return [part for shared in alike(rows, accelerator.device) for part in passes.groups(shared)]

    sums = _gradients(pass_of, groups, own, states, step + 1, passes)
    for run, state in states.items():
        if run in sums:
            loss = processes.summed(list(state.plan.parameters.values()), sums[run])
            _update_or_fail(state, loss)
        state.outcome.examples += sizes[run]
        state.outcome.steps += 1
        state.due = state.active
    return drawn


def failed(state: State, why: str, step: int) -> None:
    """Ends a run with what has gone wrong."""
    outcome = state.outcome
    outcome.stopped, outcome.failed, state.active = why, True, False
    state.plan.record({"step": step, "seconds": round(outcome.seconds, 3), "stopped": why})


def diverged(state: State, what: str, step: int) -> None:
    failed(state, f"{what} at step {step}, learning rate {state.plan.rate:.3g}; a lower rate may help", step)


def _pass(
    losses: Losses,
    own: Mapping[str, Sequence[Sequence[int]]],
    sizes: Mapping[str, int],
    states: Mapping[str, State],
    accelerator: Accelerator,
) -> dict[str, float]:
    """Adds the gradients of some runs' mean losses of a step to what their tensors have, and gives those losses."""
    sums = dict.fromkeys(own, 0.0)
    pieces = {run: states[run].outcome.pieces for run in own}
    for part in range(max(map(len, own.values()))):
        for rows in cut({run: parts[part] for run, parts in own.items() if part < len(parts)}, pieces):
            with accelerator.autocast():
                each = losses(rows, {run: states[run].outcome.steps * 1024 + part for run in rows})
            scaled = {run: loss.sum() / sizes[run] for run, loss in each.items()}
            accelerator.backward(torch.stack(list(scaled.values())).sum())
            for run, loss in scaled.items():
                sums[run] += loss.item()
    return sums


def _gradients(
    pass_of: Pass,
    groups: Callable[[Sequence[str]], list[list[str]]],
    own: Mapping[str, Sequence[Sequence[int]]],
    states: Mapping[str, State],
    step: int,
    passes: Passes,
) -> dict[str, float]:
    """Fills the gradients of a step and gives its losses; a run that fails has none, and is ended.

    Where a shared pass fails, each half of its runs is tried, down to those that fail by themselves; the others then
    go through the model as if those had never been there.
    """
    sums: dict[str, float] = {}
    left = groups(list(states))
    while left:
        runs = left.pop(0)
        said, full = _tried(pass_of, runs, states, sums)
        if said is None:
            continue
        if full and len(runs) > 1:
            passes.fewer(len(runs), step)
            left = groups([*runs, *(run for rest in left for run in rest)])
        elif full:
            left[:0] = [runs] if _in_pieces(states[runs[0]], own[runs[0]], step, passes, said) else []
        else:
            left[:0] = _without_failing(pass_of, runs, states, step, said, passes)
    return sums


def _tried(
    pass_of: Pass, runs: Sequence[str], states: Mapping[str, State], sums: dict[str, float]
) -> tuple[str | None, bool]:
    """What an error in a pass says, if there was one, and whether memory ran out; then no gradient is left of it.

    An error of a run that is not isolated is raised, but for a want of memory.
    """
    try:
        sums |= pass_of(runs)
    except Exception as error:
        full = out_of_memory(error)
        if isinstance(error, Unwritable) or not (full or all(states[run].plan.isolated for run in runs)):
            raise
        said = first_line(error) if full else f"{type(error).__name__}: {first_line(error)}"
    else:
        return None, False
    for run in runs:
        states[run].optimizer.zero_grad()
    return said, full


def _in_pieces(state: State, parts: Sequence[Sequence[int]], step: int, passes: Passes, said: str) -> bool:
    """Has a run's batches go through the model in more pieces; a run whose batches cannot be cut further is ended."""
    try:
        if state.plan.compares:
            raise too_large(parts, step, said, "batch_tokens" if state.plan.config.batch_tokens else "batch_size")
        state.outcome.pieces = passes.halved(state.outcome.pieces, parts, step, said)
    except UserError as error:
        if not state.plan.isolated:
            raise
        failed(state, str(error), state.outcome.steps + 1)
        return False
    return True


def _without_failing(
    pass_of: Pass, runs: Sequence[str], states: Mapping[str, State], step: int, said: str, passes: Passes
) -> list[list[str]]:
    """Ends the runs of a failed pass that fail by themselves; gives those to try again, in halves if none does."""
    reasons = dict(_failing(pass_of, list(runs), states, said))
    for run, why in reasons.items():
        failed(states[run], f"step {states[run].outcome.steps + 1}: {why}", states[run].outcome.steps + 1)
    sound = [run for run in runs if run not in reasons]
    if reasons:
        return [sound] if sound else []
    passes.warn(f"step {step}: {said}; none of {', '.join(runs)} fails by itself, so they go through the model apart")
    return [sound[: len(sound) // 2], sound[len(sound) // 2 :]]


def _failing(pass_of: Pass, runs: list[str], states: Mapping[str, State], said: str) -> list[tuple[str, str]]:
    """The runs of a failed pass that fail by themselves, and how."""
    if len(runs) == 1:
        return [(runs[0], said)]
    found: list[tuple[str, str]] = []
    for half in (runs[: len(runs) // 2], runs[len(runs) // 2 :]):
        why, full = _tried(pass_of, half, states, {})
        for run in half:
            states[run].optimizer.zero_grad()
        if why is not None and not full:
            found += _failing(pass_of, half, states, why)
    return found


def _update_or_fail(state: State, loss: float) -> None:
    try:
        _update(state, loss)
    except Exception as error:
        if not state.plan.isolated or isinstance(error, Unwritable):
            raise
        step = state.outcome.steps + 1
        failed(state, f"step {step}: {type(error).__name__}: {first_line(error)}", step)


def _update(state: State, loss: float) -> None:
    parameters = [parameter for parameter in state.plan.parameters.values() if parameter.grad is not None]
    limit = state.plan.config.clip or math.inf
    norm = float(nn.utils.clip_grad_norm_(parameters, limit)) if parameters else 0.0
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        diverged(state, what, state.outcome.steps + 1)
        return
    state.optimizer.step()
    state.schedule.step()
    state.optimizer.zero_grad()
    state.loss_sum += loss
    state.loss_steps += 1
