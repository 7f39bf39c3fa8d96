"""What an evaluation shows beside its metrics."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Details:
    """Rows of a per-class report and a confusion matrix (true by predicted); empty where a task has none."""

    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
