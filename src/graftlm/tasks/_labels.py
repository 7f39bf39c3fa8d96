"""Class labels: what stands in a column, the names of the classes, and each class's index."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.core.errors import UserError, check_whole
from graftlm.tasks._columns import Columns
from graftlm.tasks._read import Table, shown

Key = int | str  # a class as the data write it; whole numbers in strings are whole numbers
WHOLE = re.compile(r"-?(0|[1-9]\d*)")
FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
MOST = 10_000  # classes: a column with more holds names or numbers of examples
USE_REGRESSION = "for numbers as targets use `--task regression`; classes are whole numbers or names"


def keys(table: Table, column: str) -> list[Key]:
    """The class of each row; one that is missing or is no class is an error that names its line."""
    unlabelled = -1 if column in table.names else None  # a ClassLabel's way to say that there is none
    found = [
        _key(None if value == unlabelled else value, table, row, column) for row, value in enumerate(_of(table, column))
    ]
    _refuse_mixed(found, table, column)
    if all(isinstance(key, str) and FRACTION.fullmatch(key) for key in found):
        raise UserError(f"{table.at(0)}: {column} = {found[0]} has a fraction; {USE_REGRESSION}")
    return found


def _refuse_mixed(found: Sequence[Key], table: Table, column: str) -> None:
    """Refuses names beside numbers that were written as numbers: one of them was not meant as a class."""
    if not any(type(value) is int for value in _of(table, column)):
        return
    row = next((row for row, key in enumerate(found) if type(key) is not type(found[0])), None)
    if row is None:
        return
    shown_before, shown_here = (shown(_of(table, column)[place]) for place in (0, row))
    raise UserError(
        f"{table.at(row)}: {column} is {shown_here}, but {shown_before} in {table.unit} {table.lines[0]}; "
        "classes are all whole numbers or all names"
    )


def _of(table: Table, column: str) -> Sequence[Any]:
    return table.columns[column]


def is_missing(value: Any) -> bool:
    """None, an empty string or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _key(value: Any, table: Table, row: int, column: str) -> Key:
    if is_missing(value):
        raise UserError(f"{table.at(row)}: {column} is missing")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        check_whole(value, f"{table.at(row)}: {column}")
        return int(value) if WHOLE.fullmatch(value) and value != "-0" else value
    if isinstance(value, float):
        raise UserError(f"{table.at(row)}: {column} = {value:g} is a number with a fraction; {USE_REGRESSION}")
    raise UserError(f"{table.at(row)}: {column} is {shown(value)}; one class an example is a whole number or a string")


def names(tables: Sequence[Table], columns: Columns, given: Mapping[str, str]) -> dict[Key, str]:
    """The names of classes as the data give them: those of a `datasets` ClassLabel, or of a column of names.

    A column of names is read beside whole numbers, or where `columns` maps label_text. Two names for one class, or
    one for two, are errors.
    """
    found: dict[Key, str] = {}
    for table in tables:
        assert columns.answer is not None
        own = table.names.get(columns.answer)
        if own is not None:
            found |= dict(enumerate(own))
        elif columns.label_text in table.columns:
            _read_names(table, columns.answer, str(columns.label_text), "label_text" in given, found)
    by_name: dict[str, Key] = {}
    for key, name in found.items():
        if name in by_name:
            raise UserError(f'labels {by_name[name]} and {key} are both named "{name}" in {columns.label_text}')
        by_name[name] = key
    return found


def _read_names(table: Table, column: str, names_column: str, asked: bool, found: dict[Key, str]) -> None:
    for row, name in enumerate(_of(table, names_column)):
        if is_missing(name) or is_missing(_of(table, column)[row]):
            continue
        key = _key(_of(table, column)[row], table, row, column)
        if not asked and isinstance(key, str):
            continue
        if not isinstance(name, str):
            raise UserError(f"{table.at(row)}: {names_column} is {shown(name)}, not a string")
        check_whole(name, f"{table.at(row)}: {names_column}")
        if found.setdefault(key, name) != name:
            raise UserError(f'{table.at(row)}: label {key} is named "{name}" here and "{found[key]}" before')


def labels(seen: Sequence[Key], named: Mapping[Key, str], where: str) -> tuple[str, ...]:
    """The names of the classes that were seen, by index: whole numbers in their order, then strings in theirs."""
    ordered = sorted(set(seen), key=lambda key: (isinstance(key, str), key))
    if len(ordered) > MOST:
        raise UserError(
            f"{where} has {len(ordered):,} different labels, and {MOST:,} is the most; say which column holds the "
            "classes, as `--columns label=NAME`"
        )
    found = [named.get(key, str(key)) for key in ordered]
    if len(found) < 2:
        raise UserError(f'{where} has one class only ("{found[0]}"); a classifier needs two or more')
    return tuple(found)


def indices(
    table: Table, found: Sequence[Key], named: Mapping[Key, str], known: Sequence[str], whose: str
) -> list[int]:
    """The class index of each row. `whose` says whose labels the known ones are, for the error of another."""
    places = {name: place for place, name in enumerate(known)}
    rows: list[int] = []
    for row, key in enumerate(found):
        name = named.get(key, str(key))
        if name not in places:
            listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
            hint = "; a column label_text can name whole numbers" if isinstance(key, int) and key not in named else ""
            raise UserError(f'{table.at(row)}: label "{name}" is not among those of {whose}: {listed}{hint}')
        rows.append(places[name])
    return rows
