"""Metrics of tags: entities as seqeval counts them, single tags as scikit-learn does."""

from collections.abc import Sequence
from typing import Any

from graftlm.tasks._task import Details

NAMES = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}
Tags = Sequence[Sequence[str]]


def entity_metrics(true: Tags, predicted: Tags) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of whole entities, and the accuracy of tags."""
    from seqeval import metrics

    scores: Any = metrics
    micro = {
        "f1": float(scores.f1_score(true, predicted, zero_division=0)),
        "precision": float(scores.precision_score(true, predicted, zero_division=0)),
        "recall": float(scores.recall_score(true, predicted, zero_division=0)),
    }
    return micro | {"accuracy": float(scores.accuracy_score(true, predicted))}


def entity_shares(true: Sequence[str], predicted: Sequence[str]) -> tuple[float, float]:
    """Twice the entities that were found, and all that there are on both sides: their sums' fraction is F1."""
    from seqeval.metrics.sequence_labeling import get_entities

    own, given = set(get_entities(list(true))), set(get_entities(list(predicted)))
    return 2.0 * len(own & given), float(len(own) + len(given))


def tag_shares(true: Sequence[str], predicted: Sequence[str]) -> tuple[float, float]:
    """Right tags, and all."""
    return float(sum(map(str.__eq__, true, predicted))), float(len(true))


def by_type(true: Tags, predicted: Tags) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each type of entity."""
    from seqeval.metrics import classification_report

    found: Any = classification_report(true, predicted, output_dict=True, zero_division=0)  # pyright: ignore[reportArgumentType]
    rows = {name: row for name, row in found.items() if not name.endswith(" avg")}
    return [
        {"label": name, **{ours: float(row[theirs]) for ours, theirs in NAMES.items()}} for name, row in rows.items()
    ]


def tag_metrics(true: Tags, predicted: Tags) -> dict[str, float]:
    """Accuracy, and macro-F1 over the tags that occur in truth or prediction."""
    from sklearn.metrics import f1_score

    flat, found = _flat(true), _flat(predicted)
    labels = sorted({*flat, *found} - {""})  # a word that was not read has no tag
    return {
        "accuracy": sum(map(str.__eq__, flat, found)) / max(1, len(flat)),
        "macro_f1": float(f1_score(flat, found, labels=labels, average="macro", zero_division=0)) if flat else 0.0,  # pyright: ignore[reportArgumentType]
    }


def by_tag(true: Tags, predicted: Tags, labels: Sequence[str]) -> Details:
    """Precision, recall, F1 and support of each tag, and the counts true by predicted."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    flat, found = _flat(true), _flat(predicted)
    columns = precision_recall_fscore_support(flat, found, labels=labels, zero_division=0)  # pyright: ignore[reportArgumentType]
    rows = zip(labels, *(column.tolist() for column in columns), strict=True)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    per_class = [{"label": name, **dict(zip(NAMES, row, strict=True))} for name, *row in rows]
    return Details(per_class, confusion_matrix(flat, found, labels=labels).tolist())


def _flat(tags: Tags) -> list[str]:
    return [tag for row in tags for tag in row]
