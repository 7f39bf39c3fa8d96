"""A task is a module found by its file's name; all have the same names, which `task` lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from graftlm.core import registry

PACKAGE = "graftlm.tasks"


@dataclass(frozen=True)
class Details:
    """What a report shows beside the metrics: a row a class, and counts true by predicted; empty without classes."""

    per_class: Sequence[Mapping[str, Any]] = ()
    confusion: Sequence[Sequence[int]] = ()


def task(name: str) -> ModuleType:
    """The module of a task; an unknown name is an error that names the nearest.

    It has PRIMARY, METRICS, LOWER_IS_BETTER, `outputs`, `target`, `loss`, `decode`, `metrics` and `details`, as
    graftlm.tasks.classification does.
    """
    return registry.load(PACKAGE, "task", name)
