"""Several runs that are trained together are saved together, and go on together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.core.reporter import Silent
from graftlm.core.settings import TrainingConfig
from graftlm.training import Halted, Keeping, Plan, Snapshot, train

RATES = {"a": 0.1, "b": 0.01, "c": 0.05}
STEPS = {"a": 9, "b": 6, "c": 9}


class Runs:
    """Three runs in one tensor, as a bank holds them, each with settings of its own.

    `gap`: how many numbers stand between the rows of a run, as they do beside a run of a larger rank.
    """

    def __init__(self, runs: Sequence[str] = ("a", "b", "c"), gap: int = 0):
        self.bank = torch.zeros(len(runs), 3, 2 + gap)
        self.bank[..., :2] = torch.linspace(-1, 1, 6 * len(runs)).view(len(runs), 3, 2)
        self.weights = {run: nn.Parameter(self.bank[place, :, :2]) for place, run in enumerate(runs)}
        self.rows: dict[str, list[Any]] = {run: [] for run in runs}

    def losses(self, rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> dict[str, Tensor]:
        return {
            run: (self.weights[run].pow(2).sum() * torch.tensor(own) + self.weights[run].sum()).abs()
            for run, own in rows.items()
        }

    def plans(self) -> dict[str, Plan]:
        return {run: self._plan(run) for run in self.weights}

    def _plan(self, run: str) -> Plan:
        optimizer = "sgd" if run == "c" else "adamw"
        config = TrainingConfig(
            max_steps=STEPS[run], batch_size=2, accumulation=2, eval_steps=3, log_steps=2, optimizer=optimizer
        )
        return Plan(
            {"w": self.weights[run]},
            [1, 2, 3, 4, 5],
            config,
            seed=len(run),
            rate=RATES[run],
            head_rate=RATES[run],
            evaluate=lambda: {"loss": float(self.weights[run].detach().pow(2).sum())},
            better=lambda new, old: new < old,
            record=self.rows[run].append,
        )


def _plainly(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("stop", "before", "after"), [(2, 0, 0), (6, 0, 0), (7, 0, 0), (4, 2, 2), (4, 2, 0), (4, 0, 2)]
)
def test_runs_of_one_training_go_on_to_the_same_bits(stop: int, before: int, after: int) -> None:
    """Where the gap is another one, sums are rounded otherwise, and the steps where the run is no longer fused."""
    whole, first, then = Runs(gap=before), Runs(gap=before), Runs(gap=after)
    train(whole.losses, whole.plans(), Accelerator(cpu=True), Silent())
    saved: list[Snapshot] = []

    def save(found: Snapshot) -> None:
        tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
        saved.append(Snapshot(found.step, tensors, json.loads(json.dumps(found.values, allow_nan=False))))

    asked = iter([False] * (stop - 1) + [True])
    with pytest.raises(Halted, match=f"after step {stop}"):
        train(first.losses, first.plans(), Accelerator(cpu=True), Silent(), Keeping(save, stop=lambda: next(asked)))
    assert [found.step for found in saved] == [stop]
    found = train(then.losses, then.plans(), Accelerator(cpu=True), Silent(), Keeping(save, start=saved[0]))
    error = 1e-6 if after > before else 0
    torch.testing.assert_close(then.bank[..., :2], whole.bank[..., :2], atol=error, rtol=0)
    assert not then.bank[..., 2:].any()
    assert {run: found[run].steps for run in STEPS} == STEPS
    for run in STEPS:
        rows = [_plainly(row) for row in (*first.rows[run], *then.rows[run])]
        assert before != after or rows == [_plainly(row) for row in whole.rows[run]]


def test_a_snapshot_is_saved_every_so_many_steps_or_seconds() -> None:
    saved: list[int] = []
    for keeping, steps in (
        (Keeping(lambda found: saved.append(found.step), steps=4), [4, 8]),
        (Keeping(lambda found: saved.append(found.step), seconds=1e-9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Keeping(lambda found: saved.append(found.step)), []),
    ):
        saved.clear()
        runs = Runs()
        train(runs.losses, runs.plans(), Accelerator(cpu=True), Silent(), keeping)
        assert len(saved) <= len(steps)
        assert set(saved) <= set(steps)
        assert keeping.steps is None or saved == steps


def test_a_snapshot_of_other_runs_or_shapes_is_refused() -> None:
    saved: list[Snapshot] = []
    runs = Runs()
    train(runs.losses, runs.plans(), Accelerator(cpu=True), Silent(), Keeping(saved.append, steps=4))
    for other, said in ((Runs(("a", "b")), "of a, b, c, not of a, b"), (Runs(), "tensor w is missing, unknown or")):
        found = saved[0]
        if len(other.weights) == 3:
            found = Snapshot(found.step, {**found.tensors, "now.0.w": torch.zeros(2)}, found.values)
        with pytest.raises(UserError, match=said):
            train(other.losses, other.plans(), Accelerator(cpu=True), Silent(), Keeping(saved.append, start=found))
