"""Optimizers and schedules: the steps of warm-up are as many as Transformers' Trainer has of them."""

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from graftlm.core.settings import TrainingConfig
from graftlm.training._optim import schedule


def test_a_single_step_learns() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule(optimizer, TrainingConfig(warmup=0.06), 1)
    assert optimizer.param_groups[0]["lr"] == 1


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 24), (0.06, 4), (0.06, 100), (0.07, 100), (0, 9), (0.5, 5)])
def test_warm_up_takes_as_many_steps_as_with_trainer(warmup: float, steps: int) -> None:
    theirs = TrainingArguments(warmup_steps=warmup).get_warmup_steps(steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = schedule(optimizer, TrainingConfig(schedule="constant", warmup=warmup), steps)
    below = 0
    while optimizer.param_groups[0]["lr"] < 1:
        below += 1
        optimizer.step()
        rates.step()
    assert below == theirs
