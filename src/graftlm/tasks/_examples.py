"""Rows of texts, pairs, labels and scores as examples: what each holds, and which cannot be used."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import _labels, _rows
from graftlm.tasks._columns import Columns
from graftlm.tasks._marks import marked
from graftlm.tasks._read import Table, shown

Marks = tuple[str, str]
MOST = 3.4028234663852886e38  # what fp32 holds, which scores are learned in


def examples_of(
    table: Table, columns: Columns, mark: Marks | None, answers: Sequence[Any], task: str | None
) -> list[Example]:
    pairs = table.columns[columns.text_pair] if columns.text_pair else None
    examples: list[Example] = []
    for row, value in enumerate(table.columns[columns.text]):
        at = table.at(row)
        text = _rows.text(value, at, columns.text)
        if mark is not None:
            text = _marked(text, table, row, mark)
        examples.append(
            Example(
                text,
                _rows.text(pairs[row], at, str(columns.text_pair)) if pairs is not None else None,
                label=answers[row] if task == "classification" else None,
                score=answers[row] if task == "regression" else None,
                id=_rows.identity(table, row, columns.id),
                at=at,
                meta={"label": answers[row]} if task is None and not _labels.is_missing(answers[row]) else {},
            )
        )
    return examples


def _marked(text: str, table: Table, row: int, mark: Marks) -> str:
    try:
        return marked(text, *(table.columns[column][row] for column in mark))
    except UserError as error:
        raise UserError(f"{table.at(row)}: {error}") from None


def with_fields(examples: list[Example], table: Table, fields: Sequence[str]) -> list[Example]:
    """Examples with some columns of their rows in `meta["row"]`."""
    if not fields:
        return examples
    return [
        replace(example, meta={**example.meta, "row": {name: table.columns[name][row] for name in fields}})
        for row, example in enumerate(examples)
    ]


def classes(
    tables: Mapping[str, Table],
    columns: Columns,
    config: DataConfig,
    known: Sequence[str] | None,
    rows: Mapping[str, range],
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The labels, and the class index of each row that is kept. All rows count for the labels, whatever the limit."""
    assert columns.answer is not None
    keys = {split: _labels.keys(table, columns.answer) for split, table in tables.items()}
    named = _labels.names(list(tables.values()), columns, config.columns)
    whose = "the run" if known is not None else "train"
    if known is None:
        sources = ["train"] if "train" in tables else list(tables)
        seen = [key for split in sources for key in keys[split]]
        known = _labels.labels(seen, named, tables[sources[0]].where)
    answers = {
        split: _labels.indices(table, keys[split][: len(rows[split])], named, known, whose)
        for split, table in tables.items()
    }
    return tuple(known), answers


def scores(table: Table, columns: Columns) -> list[float]:
    assert columns.answer is not None
    return [_score(value, table.at(row), columns.answer) for row, value in enumerate(table.columns[columns.answer])]


def _score(value: Any, at: str, column: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{at}: {column} is missing")
    try:
        score = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if math.isfinite(score) and abs(score) > MOST:
        raise UserError(f"{at}: {column} is {shown(value)}, and {MOST:.4g} is the most; scale the scores down")
    if not math.isfinite(score):
        raise UserError(
            f"{at}: {column} is {shown(value)}, not a finite number; for classes use `--task classification`"
        )
    return score


def usable(
    tables: Mapping[str, Table],
    sizes: Mapping[str, int],
    columns: Columns,
    config: DataConfig,
    task: str,
    known: Sequence[str] | None,
    check: Callable[[Table], object] = lambda table: None,
) -> tuple[dict[str, Table], dict[str, int], list[str]]:
    """The tables without the rows that cannot be read, how many are left of the first `sizes` rows, and notes.

    Classes of other splits must be among those of train. `check` refuses a table of one row that does not fit besides.
    """
    found: dict[str, Table] = {}
    left: dict[str, int] = {}
    notes: list[str] = []
    for split, table in sorted(tables.items(), key=lambda item: item[0] != "train"):

        def good(row: int, table: Table = table, split: str = split, known: Sequence[str] | None = known) -> int:
            one = table.take([row])
            examples_of(one, columns, config.mark, [None], None)
            check(one)
            if task == "regression":
                scores(one, columns)
            elif known is None:
                _labels.keys(one, str(columns.answer))
            else:
                classes({split: one}, columns, config, known, {split: range(1)})
            return row

        rows, left_out = _rows.kept(table, good, True)
        found[split], left[split] = table.take(rows), sum(row < sizes[split] for row in rows)
        if not left[split]:
            raise UserError(f"none of the first {sizes[split]} examples in {table.where} can be used")
        notes += left_out
        if split == "train" and known is None and task == "classification":
            known, _ = classes({split: found[split]}, columns, config, None, {split: range(0)})
    return found, left, notes
