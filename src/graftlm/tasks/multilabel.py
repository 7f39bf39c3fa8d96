"""Any number of labels for a text or a pair, by a sigmoid each; the thresholds are tuned on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _columns, _rows
from graftlm.tasks._features import Encoded
from graftlm.tasks._read import Table, shown
from graftlm.tasks._task import Details, Given, Problem, TaskData

READS, HEAD, TUNES, SHOWN = "rows", "text", True, "labels"
LOWER_IS_BETTER = ("loss", "hamming")
USUAL = ("labels", "tags", "topics", "categories", "emotions", "label")
MARKS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class Options(Config):
    """`threshold`: the probability from which a label is given; null tunes one for each label on validation.

    `label_columns`: columns that hold 0 or 1, one for each label, in place of one with lists of labels.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    label_columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @field_validator("label_columns")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = next((name for name in columns or () if (columns or ()).count(name) > 1), None)
        if twice is not None:
            raise ValueError(f'"{twice}" stands twice')
        return columns


def read(given: Given) -> TaskData:
    """Texts and lists of labels; a string is cut at commas. The labels are those of all of train, unless given."""
    found, skip = _found(given.first, given.config.columns), given.config.skip_bad
    marks = given.problem.options.label_columns or ()
    if marks:
        found.pop("labels", None)
    elif "labels" not in found:
        raise _columns.not_found(given.first, "labels", "topics")
    for table in given.tables.values():
        for column in (*(theirs for ours, theirs in found.items() if ours != "id"), *marks):
            _rows.has(table, column)
    known = tuple(given.labels or marks) or _labels(given.train, found, skip)
    splits: dict[str, list[Example]] = {}
    notes = [_rows.said(found)]
    for split, table in given.cut.items():

        def row_of(row: int, table: Table = table) -> Example:
            return _indexed(_marked(table, row, found, marks) if marks else _labelled(table, row, found), known)

        splits[split], left_out = _rows.kept(table, row_of, skip)
        notes += left_out
    return TaskData(splits, known, "text_pair" in found, tuple(notes))


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The texts or pairs; labels are not needed."""
    found = _found(table, given)
    return [_text(table, row, found) for row in range(len(table))]


def _found(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Their column for each of ours."""
    columns = _columns.find(table, None, {ours: given[ours] for ours in ("text", "text_pair") if ours in given})
    others = {ours: theirs for ours, theirs in given.items() if ours not in ("text", "text_pair")}
    rest = _rows.columns(table, others, {"labels": USUAL}, optional=("labels",))
    pair = {} if columns.text_pair is None else {"text_pair": columns.text_pair}
    return {"text": columns.text, **pair, **rest}


def _labels(source: Table, found: Mapping[str, str], skip: bool) -> tuple[str, ...]:
    examples, _ = _rows.kept(source, lambda row: _labelled(source, row, found), skip)
    both = {"0", "1"}
    if examples and all({*example.answer} == both for example in examples):  # as [0, 1], and no row has one alone
        raise _marked_in_lists(source, 0, found["labels"])
    seen = sorted({label for example in examples for label in example.answer})
    if not seen:
        raise UserError(f"{source.where} has no label in any row of {found['labels']}")
    return tuple(seen)


def _text(table: Table, row: int, found: Mapping[str, str]) -> Example:
    at = table.at(row)
    text, pair = (
        _rows.text(table.columns[found[ours]][row], at, found[ours]) if ours in found else None
        for ours in ("text", "text_pair")
    )
    return Example(text or "", pair, id=_rows.identity(table, row, found.get("id")), at=at)


def _labelled(table: Table, row: int, found: Mapping[str, str]) -> Example:
    column = found["labels"]
    value = _parts(table, row, column)
    if _marks(value):
        raise _marked_in_lists(table, row, column)
    labels = _rows.strings(value, table.at(row), column, table.names.get(column))
    return replace(_text(table, row, found), answer=tuple(dict.fromkeys(labels)))


def _marked(table: Table, row: int, found: Mapping[str, str], marks: Sequence[str]) -> Example:
    """The labels whose columns hold a 1."""
    answer: list[str] = []
    for label in marks:
        value = table.columns[label][row]
        if (mark := MARKS.get(str(value).strip().lower())) is None:
            raise UserError(f"{table.at(row)}: {label} is {shown(value)}, not 0 or 1")
        answer += [label] * mark
    return replace(_text(table, row, found), answer=tuple(answer))


def _parts(table: Table, row: int, column: str) -> Any:
    """A cell's list of labels, or a string cut at commas; of 0 and 1 alone they are numbers, as in a list."""
    value = _rows.listed(table.columns[column][row])
    if not isinstance(value, str):
        return value
    if value.startswith("[") and value.endswith("]"):
        raise UserError(
            f'{table.at(row)}: {column} is {shown(value)}, no list in JSON or as Python writes it; ["a", "b"] is one'
        )
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return [int(part) for part in parts] if {*parts} <= {"0", "1"} else parts


def _marks(value: Any) -> bool:
    """Whether a list has 0 or 1 for each label: one of the two stands in it more than once, or is no whole number."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, int | float) for each in value):
        return False
    return {*value} <= {0, 1} and (len({*value}) < len(value) or any(type(each) is not int for each in value))


def _marked_in_lists(table: Table, row: int, column: str) -> UserError:
    return UserError(
        f"{table.at(row)}: {column} is {shown(table.columns[column][row])}, a mark for each label; write the labels "
        "that a text has, or name columns of 0 and 1 with task.label_columns"
    )


def _indexed(example: Example, known: Sequence[str]) -> Example:
    other = next((label for label in example.answer if label not in known), None)
    if other is not None:
        listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        raise UserError(f'{example.at}: label "{other}" is not among the known ones: {listed}')
    return replace(example, answer=tuple(float(label in example.answer) for label in known))


def outputs(problem: Problem) -> int:
    """How many numbers a head gives for one example."""
    return len(problem.labels)


def goals(encoded: Encoded) -> Tensor:
    """1 for each label that an example has, else 0 (rows c)."""
    bare = next((example for example in encoded.examples if example.answer is None), None)
    if bare is not None:
        raise UserError(f"an example without labels: {bare.text[:60]!r}")
    return torch.tensor([example.answer for example in encoded.examples])


def loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b c), goals (b c) -> (b): the mean of the labels' cross-entropies."""
    return functional.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean(1)


def _thresholds(problem: Problem) -> np.ndarray:
    """The probability from which each label is given (c)."""
    asked = problem.options.threshold
    return np.array([problem.tuned.get(label, 0.5) if asked is None else asked for label in problem.labels])


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The labels that reach their thresholds, and the probability of each."""
    rows = logits.double().sigmoid().numpy()
    given = rows >= _thresholds(problem)
    return [
        {
            "labels": [label for label, there in zip(problem.labels, marks, strict=True) if there],
            "probabilities": dict(zip(problem.labels, row, strict=True)),
        }
        for row, marks in zip(rows.tolist(), given.tolist(), strict=True)
    ]


def right(example: Example, labels: Sequence[str]) -> list[str]:
    """The labels that the example has."""
    return [label for label, there in zip(labels, example.answer, strict=True) if there]


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("micro_f1", "macro_f1", "accuracy", "hamming", "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """F1 over all decisions and as the labels' mean, the share of wholly right rows, and that of wrong decisions."""
    true, given = _sides(logits, encoded, problem)
    rows = _per_label(true, given)
    top, below = 2.0 * int((true & given).sum()), int(true.sum() + given.sum())
    return {
        "micro_f1": top / below if below else 0.0,
        "macro_f1": float(np.mean(rows[2])),
        "accuracy": float((true == given).all(1).mean()),
        "hamming": float((true != given).mean()),
    }


def shares(logits: Tensor, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: micro-F1."""
    true, given = _sides(logits, encoded, problem)
    return [
        (2.0 * int(a @ b), float(a.sum() + b.sum())) for a, b in zip(true.astype(int), given.astype(int), strict=True)
    ]


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Precision, recall, F1 and support of each label."""
    columns = _per_label(*_sides(logits, encoded, problem))
    rows = zip(problem.labels, *(column.tolist() for column in columns), strict=True)
    return Details([dict(zip(("label", "precision", "recall", "f1", "support"), row, strict=True)) for row in rows])


def _sides(logits: Tensor, encoded: Encoded, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """What is true and what is given, as 0 and 1 (rows c)."""
    given = logits.double().sigmoid().numpy() >= _thresholds(problem)
    return goals(encoded).int().numpy(), given.astype(int)


def _per_label(true: np.ndarray, given: np.ndarray) -> list[np.ndarray]:
    """Precision, recall, F1 and support of each label (c).

    A column of nothing stands beside the labels, since scikit-learn takes one column alone for two classes.
    """
    from sklearn.metrics import precision_recall_fscore_support

    sides = [np.pad(side, ((0, 0), (0, 1))) for side in (true, given)]
    columns: Any = precision_recall_fscore_support(*sides, zero_division=0)  # pyright: ignore[reportArgumentType]
    return [column[:-1] for column in columns]


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """The problem with each label's threshold of the best F1; one half for a label that no example has."""
    if problem.options.threshold is not None or not encoded.examples:
        return problem
    rows, true = logits.double().sigmoid().nan_to_num().numpy(), goals(encoded).numpy()
    found = {label: _best(rows[:, place], true[:, place]) for place, label in enumerate(problem.labels)}
    return replace(problem, tuned=found)


def _best(scores: np.ndarray, true: np.ndarray) -> float:
    """The threshold between two scores that gives the best F1; of equal ones the one nearest to one half."""
    if not true.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    hits, given = np.cumsum(true[order]), np.arange(1, len(order) + 1)
    f1 = 2 * hits / (given + true.sum())
    edges = scores[order]
    middles = (edges + np.append(edges[1:], 0.0)) / 2
    f1[np.append(edges[1:] == edges[:-1], False)] = -1.0  # equal scores cannot be told apart
    chosen = max(range(len(order)), key=lambda place: (round(f1[place], 12), -abs(middles[place] - 0.5)))
    return float(middles[chosen])
