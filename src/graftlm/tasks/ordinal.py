"""One of several classes that have an order, by the likelihood of stopping at each step up.

An output a step gives the probability of going on from class k to a higher one; their products never cross, as the
outputs of independent thresholds may (Shi, Cao and Raschka, 2021, arXiv:2111.08851, whose loss this is but for the
weights of the steps: here a row's loss is the negative log-likelihood of its class).
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _columns, _examples, _labels, _tag_metrics
from graftlm.tasks._features import Encoded
from graftlm.tasks._read import Table
from graftlm.tasks._task import Details, Given, Problem, TaskData

READS, HEAD, TUNES, SHOWN = "rows", "text", False, "label"
LOWER_IS_BETTER = ("loss", "mae")


class Options(Config):
    """`order`: the classes from the lowest to the highest, needed where they are no whole numbers."""

    order: tuple[str, ...] = ()

    @field_validator("order", mode="before")
    @classmethod
    def _names(cls, order: Any) -> Any:
        """Whole numbers are the names of their classes."""
        if not isinstance(order, list | tuple):
            return order
        return [str(name) if type(name) is int else name for name in order]

    @field_validator("order")
    @classmethod
    def _each_once(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for name in order if order.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f'"{twice}" stands twice')
        if len(order) == 1:
            raise ValueError("an order has two classes or more")
        return order


def read(given: Given) -> TaskData:
    """Texts or pairs with a class, as classification reads them; whole numbers are ordered as numbers."""
    tables, config = given.tables, given.config
    columns = _columns.find(given.first, "classification", config.columns)
    assert columns.answer is not None
    for table in tables.values():
        for column in (columns.text, columns.text_pair, columns.answer):
            if column is not None:
                _columns.has(table, column)
    known = given.labels if given.labels is not None else given.problem.options.order or None
    answer, sizes = columns.answer, {split: len(table) for split, table in given.cut.items()}
    left_out: list[str] = []
    if config.skip_bad:

        def ordered(one: Table) -> None:
            _numbers({"": one} if known is None else {}, answer)

        tables, sizes, left_out = _examples.usable(tables, sizes, columns, config, "classification", known, ordered)
    if known is None:
        _numbers(tables, answer)
    rows = {split: range(size) for split, size in sizes.items()}
    found, answers = _examples.classes(tables, columns, config, known, rows)
    splits = {
        split: _examples.examples_of(tables[split].take(own), columns, None, answers[split], "classification")
        for split, own in rows.items()
    }
    notes = (columns.said("classification"), f"order: {' < '.join(found)}", *left_out)
    return TaskData(splits, found, columns.text_pair is not None, notes)


def _numbers(tables: Mapping[str, Table], column: str) -> None:
    for table in tables.values():
        for row, key in enumerate(_labels.keys(table, column)):
            if isinstance(key, str):
                raise UserError(
                    f'{table.at(row)}: {column} is "{key}", and the order of names is not known; say it, as '
                    '-o "task.order=[bad, fair, good]"'
                )


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The texts or pairs; classes are not needed."""
    columns = _columns.find(table, None, _columns.of_texts(table, given))
    return _examples.examples_of(table, columns, None, [None] * len(table), None)


def outputs(problem: Problem) -> int:
    """A step up between each two classes."""
    return len(problem.labels) - 1


def goals(encoded: Encoded) -> Tensor:
    """The class indices (rows)."""
    bare = next((example for example in encoded.examples if example.label is None), None)
    if bare is not None:
        raise UserError(f"an example without a label: {bare.text[:60]!r}")
    return torch.tensor([example.label for example in encoded.examples])


def loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b c−1), goals (b) class indices -> (b)."""
    return functional.nll_loss(_log_probabilities(logits), goals, reduction="none")


def _log_probabilities(logits: Tensor) -> Tensor:
    """logits (b c−1) of going on from each class -> (b c)."""
    going = functional.logsigmoid(logits).cumsum(-1)  # b c−1
    arriving = functional.pad(going, (1, 0))  # b c
    stopping = functional.pad(functional.logsigmoid(-logits), (0, 1))  # b c: the highest class is left by none
    return arriving + stopping


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The class in the middle of the distribution, which errs by the fewest steps; and the probability of each."""
    rows = _log_probabilities(logits.double()).exp()
    return [
        {"label": problem.labels[place], "probabilities": dict(zip(problem.labels, row, strict=True))}
        for place, row in zip(_medians(logits), rows.tolist(), strict=True)
    ]


def _medians(logits: Tensor) -> list[int]:
    higher = functional.logsigmoid(logits.double()).cumsum(-1).exp()  # the probability of more than class k
    return (higher > 0.5).sum(-1).tolist()


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("kappa", "accuracy", "mae", "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """Cohen's kappa with quadratic weights (0 where one class is all there is), accuracy, and the mean steps off.

    A class that neither side has is a step of the scale all the same.
    """
    from sklearn.metrics import cohen_kappa_score

    true, given = goals(encoded).tolist(), _medians(logits)
    one, classes = len({*true, *given}) == 1, range(len(problem.labels))
    count = max(1, len(true))
    return {
        "kappa": 0.0 if one else float(cohen_kappa_score(true, given, weights="quadratic", labels=classes)),
        "accuracy": sum(map(int.__eq__, true, given)) / count,
        "mae": sum(abs(a - b) for a, b in zip(true, given, strict=True)) / count,
    }


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Precision, recall and F1 of each class, and the counts true by given."""
    true, given = ([problem.labels[place] for place in side] for side in (goals(encoded).tolist(), _medians(logits)))
    return _tag_metrics.by_tag([true], [given], problem.labels)


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem
