"""Batches: every example once an epoch, little padding, by examples or by tokens, and going on where it was left."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import graftlm
import tiny
from folders import rows, saved, write
from graftlm.core.reporter import Silent
from graftlm.core.settings import TrainingConfig
from graftlm.recipes import _model
from graftlm.tasks import collate
from graftlm.training import Outcome, Plan, timed, train
from graftlm.training._batches import Epochs, endless, epoch_batches

# as short texts are: 24 tokens on average, the longest some 70
LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.55, 5000), 4, 70).astype(int).tolist()


@pytest.mark.parametrize("tokens", [None, 512, 60])
def test_an_epoch_has_every_example_once(tokens: int | None) -> None:
    batches = epoch_batches(LENGTHS, 32, 1, 0, tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert batches == epoch_batches(LENGTHS, 32, 1, 0, tokens)
    assert batches != epoch_batches(LENGTHS, 32, 1, 1, tokens)
    if tokens is None:
        assert max(map(len, batches)) == 32
    else:
        assert all(len(own) == 1 or len(own) * max(LENGTHS[i] for i in own) <= tokens for own in batches)


@pytest.mark.parametrize("tokens", [None, 1024])
def test_less_than_8_percent_is_padding(tokens: int | None) -> None:
    batches = epoch_batches(LENGTHS, 32, 1, 0, tokens)
    held = sum(len(batch) * max(LENGTHS[index] for index in batch) for batch in batches)
    assert sum(LENGTHS) / held > 0.92


@pytest.mark.parametrize("accumulation", [1, 2, 5, 100])
@pytest.mark.parametrize("tokens", [None, 512])
def test_skipped_steps_are_those_that_came_before(tokens: int | None, accumulation: int) -> None:
    lengths, count = LENGTHS[:200], Epochs(LENGTHS[:200], 16, 3, tokens, accumulation).end(1)
    whole = list(islice(endless(lengths, 16, 3, 0, tokens, accumulation), 3 * count))
    for skip in (0, 1, count, 2 * count + 1):
        assert list(islice(endless(lengths, 16, 3, skip, tokens, accumulation), 3 * count - skip)) == whole[skip:]


@pytest.mark.parametrize("accumulation", [1, 2, 4, 7, 13, 20])
def test_the_steps_of_an_epoch_have_its_batches_in_order(accumulation: int) -> None:
    lengths = LENGTHS[:200]
    count = Epochs(lengths, 16, 3, None, accumulation).end(1)
    drawn = list(islice(endless(lengths, 16, 3, accumulation=accumulation), 2 * count))
    for epoch, steps in enumerate((drawn[:count], drawn[count:])):
        assert [batch for step in steps for batch in step] == epoch_batches(lengths, 16, 3, epoch)
        assert {len(step) for step in steps[:-1]} <= {accumulation}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("accumulation", [1, 3])
def test_epochs_of_batches_by_tokens_are_whole_and_end_with_an_evaluation(seed: int, accumulation: int) -> None:
    lengths, seen, evaluated = LENGTHS[:500], list[int](), list[int]()
    weight = nn.Parameter(torch.ones(()))

    def losses(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> dict[str, Tensor]:
        seen.extend(rows["run"])
        return {"run": weight * torch.ones(len(rows["run"]))}

    def evaluate() -> dict[str, float]:
        evaluated.append(len(seen))
        return {"loss": 0.0}

    config = TrainingConfig(batch_size=8, batch_tokens=256, epochs=3, accumulation=accumulation)
    plan = Plan({"w": weight}, lengths, config, seed, RATE, RATE, evaluate=evaluate)
    train(losses, {"run": plan}, Accelerator(cpu=True), Silent())
    assert evaluated == [500, 1000, 1500]
    assert all(sorted(seen[first : first + 500]) == list(range(500)) for first in (0, 500, 1000))


def test_the_tokens_of_a_batch_are_all_that_go_through_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(40)), "split": {"train": 1.0}}
    seen: list[int] = []

    def noted(*given: Any) -> dict[str, Tensor]:
        batch = collate(*given)
        seen.append(batch["input_ids"].numel())
        return batch

    monkeypatch.setattr(_model, "collate", noted)
    training = {"batch_tokens": 96, "epochs": 1, "cache": "off"}
    graftlm.fit(
        model=model, data=data, method={"name": "prompt-tuning", "length": 20}, out=tmp_path / "run", training=training
    )
    assert 70 < max(seen) <= 96


ROWS, RATE = 21, 0.01


def _trained(accumulations: Mapping[str, int], together: int) -> tuple[dict[str, Tensor], dict[str, Outcome]]:
    """Runs over `ROWS` examples for three epochs, batches of 4; an example's loss is a square."""
    goals = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    weights = {run: nn.Parameter(torch.ones((), dtype=torch.float64)) for run in accumulations}

    def losses(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> dict[str, Tensor]:
        return {run: (weights[run] - goals[list(own)]).square() for run, own in rows.items()}

    def plan(run: str, accumulation: int) -> Plan:
        values = {"batch_size": 4, "optimizer": "sgd", "schedule": "constant", "warmup": 0, "clip": 0}
        config = TrainingConfig(**{**values, "accumulation": accumulation})
        return Plan({"w": weights[run]}, [1] * ROWS, config, seed=5, rate=RATE, head_rate=RATE)

    plans = {run: plan(run, accumulation) for run, accumulation in accumulations.items()}
    found = train(losses, plans, Accelerator(cpu=True), Silent(), together=together)
    return {run: weight.detach() for run, weight in weights.items()}, found


@pytest.mark.parametrize("together", [1, 4])
def test_whatever_the_accumulation_every_example_counts_alike_once_an_epoch(together: int) -> None:
    accumulations = {"one": 1, "two": 2, "four": 4, "all": 9}
    weights, found = _trained(accumulations, together)
    goals = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    for run, accumulation in accumulations.items():
        wanted, steps = torch.ones((), dtype=torch.float64), 0
        for epoch in range(3):
            batches = epoch_batches([1] * ROWS, 4, 5, epoch)
            while batches:
                step, batches = batches[:accumulation], batches[accumulation:]
                own = goals[[row for batch in step for row in batch]]
                wanted = wanted - RATE * 2 * (wanted - own).mean()
                steps += 1
        assert (found[run].examples, found[run].steps) == (3 * ROWS, steps)
        torch.testing.assert_close(weights[run], wanted, atol=1e-12, rtol=0)


def test_timing_draws_no_random_numbers() -> None:
    weight = nn.Parameter(torch.ones(()))

    def losses(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> dict[str, Tensor]:
        return {run: weight * torch.rand(len(own)) for run, own in rows.items()}

    plan = Plan({"w": weight}, [1] * ROWS, TrainingConfig(), seed=0, rate=RATE, head_rate=RATE)
    before = torch.get_rng_state()
    assert timed(losses, {"run": plan}, Accelerator(cpu=True), 1).seconds
    assert torch.equal(torch.get_rng_state(), before)
