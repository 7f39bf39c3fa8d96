"""Rows to examples for tasks that read their own: columns by name, lists and strings checked, bad rows counted."""

import ast
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from graftlm.core.errors import UserError, check_whole, unknown
from graftlm.tasks._columns import IDS, first, has, not_found
from graftlm.tasks._read import Table, shown

T = TypeVar("T")
__all__ = ["columns", "has", "identity", "kept", "known", "listed", "said", "strings", "text"]


def columns(
    table: Table,
    given: Mapping[str, str],
    usual: Mapping[str, Sequence[str]],
    optional: Sequence[str] = (),
) -> dict[str, str]:
    """Their column for each of ours that `usual` gives the usual names of; an `optional` one may be absent."""
    keys = {**usual, "id": IDS}
    for ours, theirs in given.items():
        if ours not in keys:
            raise unknown("key of columns", ours, keys)
        if ours not in optional or theirs in table.columns:
            has(table, theirs)
    found: dict[str, str] = {}
    for ours, names in keys.items():
        theirs = given.get(ours) or first(table, names)
        if theirs is not None and theirs in table.columns:
            found[ours] = theirs
        elif ours not in (*optional, "id"):
            raise not_found(table, ours, names[-1])
    return found


def known(names: Collection[str], given: Mapping[str, str]) -> None:
    """Refuses a key of columns that is none of ours."""
    for ours in given:
        if ours not in names:
            raise unknown("key of columns", ours, names)


def said(found: Mapping[str, str]) -> str:
    """One line for the user: what was taken for what."""
    return "columns: " + ", ".join(f"{ours}={theirs}" for ours, theirs in found.items() if ours != "id")


def kept(table: Table, read: Callable[[int], T], skip: bool) -> tuple[list[T], list[str]]:
    """What `read` makes of a table's rows, and notes. A row that it refuses is an error, or with `skip` counted."""
    examples: list[T] = []
    refused: list[str] = []
    for row in range(len(table)):
        try:
            examples.append(read(row))
        except UserError as error:
            if not skip:
                raise
            refused.append(str(error))
    if not refused:
        return examples, []
    if not examples:
        raise UserError(f"none of the {len(refused)} examples in {table.where} can be used; the first: {refused[0]}")
    return examples, [f"{len(refused)} of {len(table)} examples in {table.where} are left out; the first: {refused[0]}"]


def text(value: Any, at: str, column: str) -> str:
    """A cell that must be a string."""
    if value is None:
        raise UserError(f"{at}: {column} is missing")
    if not isinstance(value, str):
        raise UserError(f"{at}: {column} is {shown(value)}, not a string")
    check_whole(value, f"{at}: {column}")
    return value


def listed(value: Any) -> Any:
    """The list that a cell of CSV spells in JSON or as Python does, which pandas writes; any other cell as it is."""
    if not (isinstance(value, str) and value.startswith("[") and value.endswith("]")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and (read is json.loads or str(found) == value):  # 'a' 'b' would be one string
            return found
    return value


def strings(value: Any, at: str, column: str, names: Sequence[str] | None = None) -> list[str]:
    """A cell that must be a list of strings; whole numbers are taken by their `names`, or as they are written."""
    if value is None:
        raise UserError(f"{at}: {column} is missing")
    value = listed(value)
    if isinstance(value, str):
        return text(value, at, column).split()
    if not isinstance(value, list | tuple):
        raise UserError(f"{at}: {column} is {shown(value)}, not a list")
    return [_string(item, f"{at}: {column}[{place}]", names) for place, item in enumerate(value)]


def _string(item: Any, at: str, names: Sequence[str] | None) -> str:
    if type(item) is int:
        if names is None:
            return str(item)
        if not 0 <= item < len(names):
            raise UserError(f"{at} is {item}, but there are {len(names)} names")
        return names[item]
    if not isinstance(item, str) or not item.strip():
        raise UserError(f"{at} is {shown(item)}, not a string with something in it")
    check_whole(item, at)
    return item


def identity(table: Table, row: int, column: str | None) -> str | None:
    """A row's id, where it has one."""
    value = table.columns[column][row] if column else None
    if value is None:
        return None
    check_whole(str(value), f"{table.at(row)}: {column}")
    return str(value)
