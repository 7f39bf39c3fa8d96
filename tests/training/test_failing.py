"""Of several runs in one pass, those that fail are found and ended; the others end as if they had been without them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from graftlm.core.errors import Unwritable, UserError
from graftlm.core.reporter import Silent
from graftlm.core.settings import TrainingConfig
from graftlm.training import Outcome, Plan, train

NAMES = ("a", "b", "c", "d", "e")
Break = Callable[[Mapping[str, Sequence[int]], Mapping[str, int]], None]
FULL = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


class Runs:
    """Runs of a bank's slices; `breaks` is asked before each pass, and sees what goes through."""

    def __init__(
        self, names: Sequence[str] = NAMES, breaks: Break = lambda rows, steps: None, *, isolated: bool = True
    ):
        self.bank = torch.linspace(-1, 1, 3 * len(NAMES)).view(len(NAMES), 3)
        self.weights = {run: nn.Parameter(self.bank[NAMES.index(run)]) for run in names}
        self.rows: dict[str, list[Any]] = {run: [] for run in names}
        self.said: list[str] = []
        self.passes: list[dict[str, list[int]]] = []
        self._breaks, self._isolated = breaks, isolated

    def losses(self, rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> dict[str, Tensor]:
        self.passes.append({run: list(own) for run, own in rows.items()})
        self._breaks(rows, {run: step // 1024 for run, step in steps.items()})
        return {run: (self.weights[run].pow(2).sum() * (torch.tensor(own) + 1)).abs() for run, own in rows.items()}

    def warn(self, text: str) -> None:
        self.said.append(text)

    def train(self, together: int | None = None, **training: Any) -> dict[str, Outcome]:
        reporter = Silent()
        reporter.warn = self.warn  # type: ignore[method-assign]
        config = TrainingConfig(**{"max_steps": 6, "batch_size": 4, "learning_rate": 0.05, "eval_steps": 2, **training})
        plans = {
            run: Plan(
                {"w": self.weights[run]},
                [1] * 12,
                config,
                seed=NAMES.index(run),
                rate=0.05,
                head_rate=0.05,
                evaluate=lambda run=run: {"loss": float(self.weights[run].detach().pow(2).sum())},
                better=lambda new, old: new < old,
                record=self.rows[run].append,
                isolated=self._isolated,
            )
            for run in self.weights
        }
        return train(self.losses, plans, Accelerator(cpu=True), reporter, together=together)


def _raising(*bad: str, at: int = 3, error: Exception | None = None) -> Break:
    def breaks(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> None:
        if any(run in rows and steps[run] >= at for run in bad):
            raise error or ValueError("this loss is broken")

    return breaks


@pytest.mark.parametrize("bad", [("a",), ("c",), ("b", "e"), ("a", "b", "c", "d"), NAMES])
def test_runs_whose_loss_raises_are_found_and_the_others_end_as_without_them(bad: tuple[str, ...]) -> None:
    runs = Runs(breaks=_raising(*bad))
    found = runs.train()
    sound = [run for run in NAMES if run not in bad]
    assert {run: found[run].failed for run in NAMES} == {run: run in bad for run in NAMES}
    for run in bad:
        assert found[run].stopped == "step 4: ValueError: this loss is broken"
        assert runs.rows[run][-1]["stopped"] == found[run].stopped
        assert (found[run].best_step, found[run].steps) == (2, 4)
    if sound:
        alone = Runs(sound)
        alone.train()
        assert all(torch.equal(runs.weights[run], alone.weights[run]) for run in sound)
    assert len(runs.passes) < 6 + 3 + 2 * len(bad) * 4  # halves, not one by one at every step


def test_a_run_whose_optimizer_or_backward_pass_raises_is_ended_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, real = Runs(), torch.optim.AdamW.step
    wanted = Runs([run for run in NAMES if run not in ("b", "d")])

    def step(self: Any, *given: Any) -> Any:
        if any(own is runs.weights["b"] for group in self.param_groups for own in group["params"]):
            raise RuntimeError("no kernel image is available")
        return real(self, *given)

    def broken(gradient: Tensor) -> Tensor:
        raise RuntimeError("a backward pass is broken")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    runs.weights["d"].register_hook(broken)
    found = runs.train()
    assert found["b"].stopped == "step 1: RuntimeError: no kernel image is available"
    assert found["d"].stopped == "step 1: RuntimeError: a backward pass is broken"
    wanted.train()
    assert all(torch.equal(runs.weights[run], wanted.weights[run]) for run in wanted.weights)


def test_runs_that_fail_only_together_go_through_the_model_apart() -> None:
    def breaks(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> None:
        if {"a", "e"} <= rows.keys() and steps["a"] == 2:
            raise RuntimeError("too many")

    runs, plain = Runs(breaks=breaks), Runs()
    assert not any(outcome.failed for outcome in runs.train().values())
    plain.train()
    assert torch.equal(runs.bank, plain.bank)
    assert runs.said == [
        "step 3: RuntimeError: too many; none of a, b, c, d, e fails by itself, so they go through the model apart"
    ]


def test_where_memory_runs_out_fewer_runs_share_a_pass_and_end_in_the_same_place() -> None:
    def breaks(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> None:
        if len(rows) > 2 and max(steps.values()) >= 2:
            raise FULL

    runs, plain = Runs(breaks=breaks), Runs()
    assert not any(outcome.failed for outcome in runs.train().values())
    plain.train()
    assert torch.equal(runs.bank, plain.bank)
    told = "out of memory at step 3: from here on at most {} runs go through the model at once"
    assert runs.said == [told.format(3), told.format(2)]
    assert [len(rows) for rows in runs.passes[-3:]] == [2, 2, 1]


def test_fewer_runs_begin_after_memory_ran_out() -> None:
    def breaks(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> None:
        if len(rows) > 2:
            raise FULL

    runs = Runs(breaks=breaks)
    runs.train(together=4)
    assert [len(rows) for rows in runs.passes].count(4) == 1


def test_a_run_of_which_not_one_example_fits_is_ended_and_the_others_go_on() -> None:
    def breaks(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> None:
        if "c" in rows:
            raise FULL

    runs, plain = Runs(breaks=breaks), Runs([run for run in NAMES if run != "c"])
    found = runs.train()
    assert found["c"].stopped.startswith("out of memory at step 1 with one example a pass (CUDA out of memory.")
    plain.train()
    assert all(torch.equal(runs.weights[run], plain.weights[run]) for run in plain.weights)
    assert {run: found[run].pieces for run in NAMES if run != "c"} == dict.fromkeys("abde", 1)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_full_disk_and_an_error_of_a_run_that_stands_for_itself_are_raised(isolated: bool) -> None:
    error = Unwritable(Path("x"), "no space") if isolated else ValueError("broken")
    with pytest.raises(UserError if isolated else ValueError):
        Runs(breaks=_raising("a", error=error), isolated=isolated).train()


def test_numbers_that_are_not_finite_touch_no_neighbour() -> None:
    runs, plain = Runs(), Runs([run for run in NAMES if run != "b"])
    with torch.no_grad():
        runs.weights["b"].fill_(float("nan"))
    assert runs.train()["b"].stopped.startswith("loss nan at step 1")
    plain.train()
    assert all(torch.equal(runs.weights[run], plain.weights[run]) for run in plain.weights)
