"""Relation extraction as text: the two entities between markers (Soares et al., 2019, arXiv:1906.03158, figure 3e)."""

import re
from typing import Any

from graftlm.core.errors import UserError
from graftlm.tasks._read import shown
from graftlm.tasks._windows import is_mark

Span = tuple[int, int]


def marked(text: str, head: Any, tail: Any) -> str:
    """The text with "[E1] … [/E1]" around the head and "[E2] … [/E2]" around the tail.

    An entity is a string, [start, end] or {"start", "end"} in characters, the end not included. A string stands
    where it first occurs as whole words, else where it first occurs at all; the tail's is one clear of the head if
    there is one. One entity may lie in the other; two that cross are refused.
    """
    first = _span(text, head, "head", None)
    second = _span(text, tail, "tail", first)
    (start, end), (other_start, other_end) = sorted((first, second))
    if start < other_start < end < other_end:
        raise UserError(f"head {_quoted(text, first)} and tail {_quoted(text, second)} cross each other")
    inserts = []
    for place, (start, end) in enumerate((first, second)):
        inserts.append(((end, 0, -start, -place), f" [/E{place + 1}]"))  # closers first, the inner one before the outer
        inserts.append(((start, 1, -end, place), f"[E{place + 1}] "))
    parts, done = [], 0
    for (where, *_), marker in sorted(inserts):
        parts += [text[done:where], marker]
        done = where
    return "".join(parts) + text[done:]


def _span(text: str, entity: Any, which: str, taken: Span | None) -> Span:
    if isinstance(entity, str):
        return _found(text, entity, which, taken)
    ends: Any = [entity.get("start"), entity.get("end")] if isinstance(entity, dict) else entity
    if not (isinstance(ends, list | tuple) and len(ends) == 2 and all(type(end) is int for end in ends)):
        raise UserError(
            f'{which} is {shown(entity)}; an entity is its text, [start, end] or {{"start": …, "end": …}} in characters'
        )
    start, end = int(ends[0]), int(ends[1])
    if not 0 <= start < end <= len(text):
        raise UserError(f"{which} = [{start}, {end}] is no part of a text of {len(text)} characters")
    return start, end


def _found(text: str, entity: str, which: str, taken: Span | None) -> Span:
    if not entity.strip():
        raise UserError(f"{which} is empty")
    literal = re.escape(entity)
    spans = [match.span() for match in re.finditer(literal, text)]
    whole = {match.span() for match in re.finditer(rf"(?<!\w){literal}(?!\w)", text)}
    spans.sort(key=lambda span: (_cuts_a_letter(text, span), span not in whole))
    if not spans:
        raise UserError(f"{which} {shown(entity)} does not occur in the text {shown(text)}")
    if taken is None:
        return spans[0]
    return next((span for span in spans if span[1] <= taken[0] or taken[1] <= span[0]), spans[0])


def _cuts_a_letter(text: str, span: Span) -> bool:
    """Whether a span leaves a mark behind that belongs to its last letter, or begins behind one, inside a word."""
    start, end = span
    return is_mark(text[end : end + 1]) or is_mark(text[start - 1 : start])


def _quoted(text: str, span: Span) -> str:
    return shown(text[slice(*span)])
