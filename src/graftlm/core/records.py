"""What a job gives back, and what `run.json` and `metrics.json` hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def not_finite(metrics: Mapping[str, float]) -> str | None:
    """The first metric that is no finite number, as "loss nan", or None: JSON has no word for it."""
    return next((f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)), None)


@dataclass(frozen=True)
class RunRecord:
    """A finished run. `metrics` are those of the best evaluation on validation, empty without one.

    `parameters`: numbers trained by the method ("delta"), by the head ("head"), stored ("kept"), and the base's.
    """

    out: Path
    metrics: Mapping[str, float]
    primary: str
    parameters: Mapping[str, int]
    seconds: float
    steps: int
    stopped: str
    record: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split; `per_class` rows and `confusion` (true by predicted) for classification, else empty."""

    split: str
    metrics: Mapping[str, float]
    primary: str
    labels: Sequence[str]
    per_class: Sequence[Mapping[str, Any]]
    confusion: Sequence[Sequence[int]]
    examples: int
    seconds: float
