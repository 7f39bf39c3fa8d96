"""Runs under way: what each needs, where it stands, and all of it as tensors and plain values, from which it goes on.

A run that goes on from a snapshot takes the same steps, bit for bit, as one that was never left.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.core.settings import TrainingConfig
from graftlm.training._batches import Epochs, endless
from graftlm.training._optim import optimizer, optimizer_state, restore_optimizer, schedule

NUMBERS = ("bad", "loss_sum", "loss_steps", "active", "metric", "due")


@dataclass
class Plan:
    """What one run needs: its tensors, its examples' lengths, its settings, and how it is evaluated.

    `lengths` count virtual tokens too. `rates` multiplies `rate` for the tensors that it names; `decayed` are vectors
    that weight decay shrinks too. `evaluate` gives metrics; `better` says whether a new value of the watched metric
    beats an old one. `watch` is told of each evaluation and may give a reason to stop. `ended` is called once, with the
    weights that are kept in place; a run that has it is forgotten afterwards. `isolated`: an error in the run's loss,
    optimizer or evaluation stops that run alone. `compares`: the loss compares the examples of a batch, so that pieces
    of it have another loss.
    """

    parameters: Mapping[str, nn.Parameter]
    lengths: Sequence[int]
    config: TrainingConfig
    seed: int
    rate: float
    head_rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    decayed: Collection[str] = ()
    evaluate: Callable[[], Mapping[str, float]] | None = None
    metric: str = "loss"
    better: Callable[[float, float], bool] = lambda new, old: new > old
    record: Callable[[Mapping[str, Any]], None] = lambda row: None
    watch: Callable[[int, Mapping[str, float]], str | None] = lambda step, metrics: None
    ended: "Callable[[Outcome], None] | None" = None
    isolated: bool = False
    compares: bool = False

    @cached_property
    def epochs(self) -> Epochs:
        own = self.config
        return Epochs(self.lengths, own.batch_size, self.seed, own.batch_tokens, own.accumulation)

    def evaluations(self, step: int) -> float:
        """How many evaluations fall into so many steps; whole where one is due."""
        return step / self.config.eval_steps if self.config.eval_steps else self.epochs.at(step)


@dataclass
class Outcome:
    """How one run ended: its steps, the best evaluation, and why it stopped.

    `seconds` are of training alone, in shared steps the run's share by tokens; `evaluating` are those of evaluation.

    `failed`: a number was not finite, or the run raised an error, as `stopped` says; the weights are those of the best
    evaluation before it.
    `pieces`: how many passes a batch takes, more than one where memory ran out.
    """

    steps: int = 0
    examples: int = 0
    best: Mapping[str, float] | None = None
    best_step: int = 0
    seconds: float = 0.0
    evaluating: float = 0.0
    stopped: str = "done"
    failed: bool = False
    pieces: int = 1


@dataclass
class State:
    """One run under way. `batches`: those of each step.

    `due`: its last step may call for an evaluation that was not made yet.
    """

    plan: Plan
    total: int
    batches: Iterator[list[list[int]]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    outcome: Outcome = field(default_factory=Outcome)
    weights: dict[str, Tensor] = field(default_factory=dict)
    bad: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    active: bool = True
    metric: float | None = None
    due: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All that a training under way consists of after `step` steps; `values` are plain, as JSON takes them."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def steps_of(plan: Plan) -> int:
    """Optimizer steps in all."""
    config, end = plan.config, plan.epochs.end
    if config.max_steps or not config.batch_tokens:
        return config.max_steps or max(1, round(config.epochs * end(1)))
    whole = int(config.epochs)
    return max(1, round(end(whole) + (config.epochs - whole) * (end(whole + 1) - end(whole))))


def start(plan: Plan, step: int = 0) -> State:
    """A run before its first step, or with its batches drawn up to `step`."""
    total = steps_of(plan)
    made = optimizer(plan.parameters, plan.config, plan.rate, plan.head_rate, plan.rates, plan.decayed)
    config = plan.config
    batches = endless(plan.lengths, config.batch_size, plan.seed, step, config.batch_tokens, config.accumulation)
    return State(plan, total, batches, made, schedule(made, plan.config, total))


def snapshot(states: Mapping[str, State], step: int) -> Snapshot:
    """The runs as they stand, and torch's random numbers; the tensors are the runs' own, not copies."""
    tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    runs: list[dict[str, Any]] = []
    for place, (run, state) in enumerate(states.items()):
        own, numbers = optimizer_state(state.optimizer)
        for kind, group in (("now", state.plan.parameters), ("best", state.weights), ("optimizer", own)):
            tensors |= {f"{kind}.{place}.{name}": tensor.detach() for name, tensor in group.items()}
        schedule_state = {name: value for name, value in state.schedule.state_dict().items() if name != "lr_lambdas"}
        runs.append(
            {name: getattr(state, name) for name in NUMBERS}
            | {
                "run": run,
                "place": place,
                "outcome": asdict(state.outcome),
                "optimizer": numbers,
                "schedule": schedule_state,
            }
        )
    return Snapshot(step, tensors, {"runs": runs})


def only(found: Snapshot, names: Collection[str]) -> Snapshot:
    """The snapshot without other runs than those of `names`."""
    runs = [values for values in found.values["runs"] if values["run"] in names]
    return Snapshot(found.step, found.tensors, {**found.values, "runs": runs})


def steps_at(found: Snapshot | None) -> dict[str, int]:
    """How many steps each run of a snapshot had made."""
    return {values["run"]: values["outcome"]["steps"] for values in (found.values["runs"] if found else ())}


@torch.no_grad()
def restore(states: Mapping[str, State], found: Snapshot) -> None:
    """Puts fresh states where those of the snapshot were; raises UserError where it is of other runs."""
    names = [values["run"] for values in found.values["runs"]]
    if names != list(states):
        raise UserError(f"the checkpoint is of {', '.join(names)}, not of {', '.join(states)}")
    for state, values in zip(states.values(), found.values["runs"], strict=True):
        place = values["place"]
        now = _named(found.tensors, f"now.{place}.")
        _same(now, state.plan.parameters)
        for name, parameter in state.plan.parameters.items():
            parameter.copy_(now[name])
        state.weights = {
            name: tensor.to(state.plan.parameters[name].device)
            for name, tensor in _named(found.tensors, f"best.{place}.").items()
        }
        restore_optimizer(state.optimizer, _named(found.tensors, f"optimizer.{place}."), values["optimizer"])
        lambdas = state.schedule.state_dict().get("lr_lambdas")
        state.schedule.load_state_dict(values["schedule"] | {"lr_lambdas": lambdas})
        state.outcome = Outcome(**values["outcome"])
        for name in NUMBERS:
            setattr(state, name, values[name])
    torch.set_rng_state(found.tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(found.tensors["random.cuda"])


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in (found, wanted)]
    if shapes[0] != shapes[1]:
        wrong = min(_differing(*shapes))
        raise UserError(f"the checkpoint does not fit the run: tensor {wrong} is missing, unknown or of another shape")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[str]:
    return (name for name in {*one, *other} if one.get(name) != other.get(name))
