"""A task is a module found by its file's name; all have the same names, which `task` lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from graftlm.core import registry
from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks._read import Table

PACKAGE = "graftlm.tasks"
BASE_HEADS = ("lm", "mlm")


class NoOptions(Config):
    """A task without options of its own."""


@dataclass(frozen=True)
class Problem:
    """One task with its labels, in the order of class indices (() where it has none), and its options.

    `tuned` are numbers that were found on validation.
    """

    task: str
    labels: tuple[str, ...] = ()
    options: Any = NoOptions()  # noqa: RUF009 (frozen)
    tuned: Mapping[str, float] = field(default_factory=dict)

    @property
    def base_head(self) -> str | None:
        """The head of the base's own that the task uses: "lm" or "mlm", or None where it has a head of its own."""
        return self.module.HEAD if self.module.HEAD in BASE_HEADS else None

    @property
    def module(self) -> ModuleType:
        """Where the task's functions are."""
        return task(self.task)


@dataclass(frozen=True)
class Given:
    """What a task that reads its own rows is given: whole tables by split, the rows of each that were asked for, the
    options, and the labels of a trained run, if there is one.
    """

    tables: Mapping[str, Table]
    cut: Mapping[str, Table]
    config: DataConfig
    problem: Problem
    labels: Sequence[str] | None = None

    @property
    def first(self) -> Table:
        return next(iter(self.tables.values()))

    @property
    def train(self) -> Table:
        """Where labels are taken from: train, or what there is."""
        return self.tables.get("train", self.first)


@dataclass(frozen=True)
class TaskData:
    """Examples by split as it was asked for; `labels` in the order of class indices, () for regression.

    `pair`: whether an example has two texts. `notes`: lines that a user should be told. `aliases`: the columns that
    are text and text_pair.
    """

    splits: dict[str, list[Example]]
    labels: tuple[str, ...]
    pair: bool
    notes: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Details:
    """What a report shows beside the metrics: a row a class, and counts true by predicted; empty without classes."""

    per_class: Sequence[Mapping[str, Any]] = ()
    confusion: Sequence[Sequence[int]] = ()


def task(name: str) -> ModuleType:
    """The module of a task; an unknown name is an error that names the nearest.

    It has LOWER_IS_BETTER, TUNES, `Options`, `measures`, `outputs`, `goals`, `loss`, `decode`, `metrics`, `details` and
    `tuned`, as graftlm.tasks.classification does, and `shares` where its first metric is a fraction of two sums over
    examples. SHOWN, where it has one, is the part of an answer that a report shows, and `right` what that should be (of
    a tuple any will do), where an example's `answer` says it. READS says what an example is: a text with a "class" or a
    "score", or "rows" that the task's own `read` and `asked` make examples of. HEAD says what logits are of: a whole
    "text", or by the task's own `encode` "tokens" of rows, or "vectors" of a row and the texts that belong to it, whose
    `loss` takes the options too; or "lm", the base's own, which foresees each row's answer and writes texts: what
    `decode` and `metrics` take is then `Written`; or "mlm", an encoder's own, which guesses words: `Guessed`.
    """
    return registry.load(PACKAGE, "task", name)


def parse(
    options: Mapping[str, Any], name: str, labels: Sequence[str] = (), tuned: Mapping[str, float] | None = None
) -> Problem:
    """A task's options as plain values, {"stride": 64}, as a problem; one that the task does not have is an error."""
    kind: type[Config] = task(name).Options
    if options and not kind.model_fields:
        raise UserError(f'task.{next(iter(options))}: the task "{name}" has no options')
    return Problem(name, tuple(labels), kind.parse(options, where="task."), tuned or {})
