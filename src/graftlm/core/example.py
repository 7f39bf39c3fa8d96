"""One labelled (or unlabelled) example of a text task."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """`text`, a second text for pair tasks, and a class index, a number, or nothing.

    `answer` is what a task that is neither classification nor regression should give, in its own terms; `words` are
    the characters [start, end) of the text's words, where a task has them. `at` says where the example stands: one that
    stands elsewhere may be equal.
    """

    text: str
    text_pair: str | None = None
    label: int | None = None
    score: float | None = None
    id: str | None = None
    answer: Any = None
    words: tuple[tuple[int, int], ...] | None = None
    at: str = field(default="", compare=False)
    meta: dict[str, Any] = field(default_factory=dict)
