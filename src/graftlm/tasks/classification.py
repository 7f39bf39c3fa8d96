"""Classification: one label a text. Cross-entropy; accuracy, macro-F1, Matthews' correlation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_recall_fscore_support
from torch import Tensor

from graftlm.core.example import Example
from graftlm.tasks._details import Details

PRIMARY = "accuracy"
METRICS = ("accuracy", "macro_f1", "matthews", "loss")
LOWER_IS_BETTER = ("loss",)


def outputs(labels: Sequence[str]) -> int:
    """How many numbers the head gives."""
    return len(labels)


def target(example: Example) -> int:
    assert example.label is not None
    return example.label


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each example: logits (b c), targets (b) -> (b)."""
    return F.cross_entropy(logits, targets, reduction="none")


def decode(logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest label of each row, and all labels' probabilities."""
    probabilities = torch.softmax(logits.double(), dim=-1)
    return [
        {
            "label": labels[int(row.argmax())],
            "probabilities": {name: round(float(value), 6) for name, value in zip(labels, row, strict=True)},
        }
        for row in probabilities
    ]


def metrics(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Macro-F1 is over all labels; one that neither occurs nor is predicted counts as 0, as in scikit-learn."""
    predicted, true = logits.argmax(-1).numpy(), targets.numpy()
    every = list(range(len(labels)))
    return {
        "accuracy": float((predicted == true).mean()),
        "macro_f1": float(f1_score(true, predicted, labels=every, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(true, predicted)),
    }


def details(logits: Tensor, targets: Tensor, labels: Sequence[str]) -> Details:
    """Precision, recall and F1 of each label, and how often each was taken for each other."""
    predicted, true = logits.argmax(-1).numpy(), targets.numpy()
    every = list(range(len(labels)))
    columns = precision_recall_fscore_support(true, predicted, labels=every, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    rows = [
        {"label": label, **{name: float(column[index]) for name, column in zip(names, columns, strict=True)}}
        for index, label in enumerate(labels)
    ]
    return Details(rows, confusion_matrix(true, predicted, labels=every).tolist())
