"""Entity marks for relation extraction: `[E1] … [/E1]` and `[E2] … [/E2]` in the text (Soares et al., 2019)."""

from collections.abc import Mapping
from typing import Any

from graftlm.core.errors import UserError


def marked(text: str, row: Mapping[str, Any], columns: tuple[str, str], where: str) -> str:
    """The text with both entities marked. A column holds an entity's words, or its [start, end] characters."""
    spans = [_span(text, row, column, where) for column in columns]
    (first, last), (start, stop) = sorted(spans)
    if start < last:
        raise UserError(f"{where}: the entities {columns[0]} and {columns[1]} overlap")
    names = ("E1", "E2") if spans[0] <= spans[1] else ("E2", "E1")
    one = f"[{names[0]}] {text[first:last]} [/{names[0]}]"
    two = f"[{names[1]}] {text[start:stop]} [/{names[1]}]"
    return text[:first] + one + text[last:start] + two + text[stop:]


def _span(text: str, row: Mapping[str, Any], column: str, where: str) -> tuple[int, int]:
    if column not in row:
        raise UserError(f'{where}: no column "{column}" to mark; there is {", ".join(row)}')
    value = row[column]
    if isinstance(value, Mapping):
        value = [value.get("start"), value.get("end")]
    if isinstance(value, str):
        start = text.find(value)
        if start < 0 or not value:
            raise UserError(f'{where}: the text does not hold "{value}" ({column})')
        return start, start + len(value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(place, int) for place in value):
        start, stop = value
        if 0 <= start < stop <= len(text):
            return start, stop
    raise UserError(f"{where}: {column} = {value!r} is neither words of the text nor [start, end] within its {len(text)} characters")
