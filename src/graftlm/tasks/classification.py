"""One class of several for a text or a pair, by cross-entropy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks._features import Encoded
from graftlm.tasks._task import Details, NoOptions, Problem

READS, HEAD, SHOWN = "class", "text", "label"
TUNES = False
Options = NoOptions
LOWER_IS_BETTER = ("loss",)


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("accuracy", "macro_f1", "matthews", "loss")


def outputs(problem: Problem) -> int:
    """How many numbers a head gives for one example."""
    return len(problem.labels)


def goals(encoded: Encoded) -> Tensor:
    """The class indices (rows)."""
    return torch.tensor([_label(example) for example in encoded.examples])


def _label(example: Example) -> int:
    if example.label is None:
        raise UserError(f"an example without a label: {example.text[:60]!r}")
    return example.label


def loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b c), goals (b) class indices -> (b)."""
    return functional.cross_entropy(logits, goals, reduction="none")


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """logits (b c) -> the likeliest label and the probability of each, an example."""
    rows = logits.double().softmax(-1).tolist()
    best = logits.argmax(-1).tolist()
    labels = problem.labels
    return [
        {"label": labels[place], "probabilities": dict(zip(labels, row, strict=True))}
        for place, row in zip(best, rows, strict=True)
    ]


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """Accuracy, macro-F1 over the classes that occur in truth or prediction, and Matthews' correlation.

    A row of logits that is not finite counts as wrong.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    targets = goals(encoded)
    predicted, true = _predicted(logits, targets), targets.tolist()
    return {
        "accuracy": sum(map(int.__eq__, predicted, true)) / max(1, len(true)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),  # pyright: ignore[reportArgumentType]
        "matthews": float(matthews_corrcoef(true, predicted)) if len({*true, *predicted}) > 1 else 0.0,
    }


def shares(logits: Tensor, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: accuracy."""
    targets = goals(encoded)
    return [
        (float(given == true), 1.0) for given, true in zip(_predicted(logits, targets), targets.tolist(), strict=True)
    ]


def report(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class; 0 where there is nothing to divide by."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        targets.tolist(),
        _predicted(logits, targets),
        labels=range(len(labels)),
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    rows = zip(labels, *(column.tolist() for column in columns), strict=True)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    return [dict(zip(("label", "precision", "recall", "f1", "support"), row, strict=True)) for row in rows]


def confusion(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> list[list[int]]:
    """Counts (c c), true by predicted."""
    size = len(labels)
    flat = targets * size + torch.tensor(_predicted(logits, targets), dtype=torch.long)
    return torch.bincount(flat, minlength=size * size).view(size, size).tolist()


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """The report of each class and the confusion matrix."""
    targets = goals(encoded)
    return Details(report(logits, targets, problem.labels), confusion(logits, targets, problem.labels))


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem


def _predicted(logits: Tensor, targets: Tensor) -> list[int]:
    wrong = (targets + 1) % logits.shape[-1]
    return torch.where(logits.isfinite().all(-1), logits.argmax(-1), wrong).tolist()
