"""One number for a text or a pair, by squared error."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks._task import Details

PRIMARY = "pearson"
METRICS = ("pearson", "spearman", "mse", "mae", "loss")
LOWER_IS_BETTER = ("loss", "mse", "mae")


def outputs(labels: Sequence[str]) -> int:
    """How many numbers a head gives for one example."""
    return 1


def target(example: Example) -> float:
    """The score."""
    if example.score is None:
        raise UserError(f"an example without a score: {example.text[:60]!r}")
    return example.score


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (b 1), targets (b) scores -> (b)."""
    return (logits[:, 0] - targets).square()


def decode(logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    """logits (b 1) -> the score, an example."""
    return [{"score": score} for score in logits[:, 0].tolist()]


def metrics(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Pearson's and Spearman's correlations (0 where one side is constant or not finite), squared and absolute error.

    An error that is not finite is the largest float, so that it stays the worst and JSON can hold it.
    """
    from scipy.stats import rankdata

    predicted = logits[:, 0].double().numpy()
    true = targets.double().numpy()
    finite = len(true) > 0 and bool(np.isfinite(predicted).all())
    error = predicted - true if finite else np.full(1, np.inf)
    return {
        "pearson": _pearson(predicted, true) if finite else 0.0,
        "spearman": _pearson(rankdata(predicted), rankdata(true)) if finite else 0.0,
        "mse": min(float(np.square(error).mean()), sys.float_info.max),
        "mae": min(float(np.abs(error).mean()), sys.float_info.max),
    }


def details(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> Details:
    """Nothing: a score has no classes."""
    return Details()


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))
