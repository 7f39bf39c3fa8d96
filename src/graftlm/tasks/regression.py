"""Regression: one number a text. Squared error; Pearson's and Spearman's correlation, mean errors."""

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from graftlm.core.example import Example
from graftlm.tasks._details import Details

PRIMARY = "pearson"
METRICS = ("pearson", "spearman", "mse", "mae", "loss")
LOWER_IS_BETTER = ("mse", "mae", "loss")


def outputs(labels: Sequence[str]) -> int:
    """How many numbers the head gives."""
    return 1


def target(example: Example) -> float:
    assert example.score is not None
    return example.score


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each example: logits (b 1), targets (b) -> (b)."""
    return (logits[:, 0] - targets.to(logits.dtype)) ** 2


def decode(logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    return [{"score": round(float(row[0]), 6)} for row in logits]


def metrics(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """A correlation with constant predictions, which is undefined, counts as 0."""
    predicted, true = logits[:, 0].double().numpy(), targets.double().numpy()
    constant = len(true) < 2 or predicted.std() == 0 or true.std() == 0
    pearson = 0.0 if constant else float(pearsonr(true, predicted).statistic)
    spearman = 0.0 if constant else float(spearmanr(true, predicted).statistic)
    return {
        "pearson": pearson if math.isfinite(pearson) else 0.0,
        "spearman": spearman if math.isfinite(spearman) else 0.0,
        "mse": float(((predicted - true) ** 2).mean()),
        "mae": float(abs(predicted - true).mean()),
    }


def details(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> Details:
    return Details([], [])
