"""Of several runs, one whose numbers are no longer finite stops alone."""

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from graftlm.core.reporter import Silent
from graftlm.core.settings import TrainingConfig
from graftlm.training import Plan, train


def test_a_run_whose_metric_is_not_finite_stops_with_its_best_weights_and_the_others_go_on() -> None:
    weights = {run: nn.Parameter(torch.ones(2)) for run in ("sound", "bad")}
    seen: dict[str, list[Tensor]] = {"sound": [], "bad": []}
    rows: dict[str, list[Mapping[str, object]]] = {"sound": [], "bad": []}

    def losses(examples: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> Mapping[str, Tensor]:
        return {run: weights[run].sum().expand(len(own)) for run, own in examples.items()}

    def plan(run: str) -> Plan:
        def evaluate() -> Mapping[str, float]:
            seen[run].append(weights[run].detach().clone())
            return {"accuracy": 0.5, "loss": math.nan if run == "bad" and len(seen[run]) == 3 else 1.0}

        config = TrainingConfig(max_steps=6, eval_steps=1, batch_size=2, learning_rate=0.1)
        return Plan(
            {"w": weights[run]},
            [1] * 8,
            config,
            0,
            0.1,
            0.1,
            evaluate=evaluate,
            metric="accuracy",
            record=rows[run].append,
        )

    found = train(losses, {run: plan(run) for run in weights}, Accelerator(cpu=True), Silent())
    assert (found["bad"].steps, found["bad"].failed, found["sound"].steps) == (3, True, 6)
    assert found["bad"].stopped == "validation loss nan at step 3, learning rate 0.1; a lower rate may help"
    assert rows["bad"][-1]["stopped"] == found["bad"].stopped
    assert torch.equal(weights["bad"], seen["bad"][found["bad"].best_step - 1])
    assert (found["sound"].stopped, found["sound"].failed) == ("done", False)
