"""One number for a text or a pair, by squared error."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks._features import Encoded
from graftlm.tasks._task import Details, NoOptions, Problem

READS, HEAD, SHOWN = "score", "text", "score"
TUNES = False
Options = NoOptions
LOWER_IS_BETTER = ("loss", "mse", "mae")


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("pearson", "spearman", "mse", "mae", "loss")


def outputs(problem: Problem) -> int:
    """How many numbers a head gives for one example."""
    return 1


def goals(encoded: Encoded) -> Tensor:
    """The scores (rows)."""
    return torch.tensor([_score(example) for example in encoded.examples])


def _score(example: Example) -> float:
    if example.score is None:
        raise UserError(f"an example without a score: {example.text[:60]!r}")
    return example.score


def loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b 1), goals (b) scores -> (b)."""
    return (logits[:, 0] - goals).square()


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """logits (b 1) -> the score, an example."""
    return [{"score": score} for score in logits[:, 0].tolist()]


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """Pearson's and Spearman's correlations (0 where one side is constant or not finite), squared and absolute error.

    An error that is not finite is the largest float, so that it stays the worst and JSON can hold it.
    """
    from scipy.stats import rankdata

    predicted = logits[:, 0].double().numpy()
    true = np.array([_score(example) for example in encoded.examples])
    finite = len(true) > 0 and bool(np.isfinite(predicted).all())
    error = predicted - true if finite else np.full(1, np.inf)
    return {
        "pearson": _pearson(predicted, true) if finite else 0.0,
        "spearman": _pearson(rankdata(predicted), rankdata(true)) if finite else 0.0,
        "mse": min(float(np.square(error).mean()), sys.float_info.max),
        "mae": min(float(np.abs(error).mean()), sys.float_info.max),
    }


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: a score has no classes."""
    return Details()


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))
