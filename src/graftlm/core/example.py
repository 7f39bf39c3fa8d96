"""One labelled (or unlabelled) example of a text task."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """`text`, a second text for pair tasks, and a class index, a number, or nothing."""

    text: str
    text_pair: str | None = None
    label: int | None = None
    score: float | None = None
    id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
