"""A cell of answers, in the forms that data sets have, as checked characters of the context."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.core.errors import UserError
from graftlm.tasks._read import shown
from graftlm.tasks._rows import text

Span = tuple[int, int]
UNSEEN = r"\s\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # format characters but joiners and tags
SEEN = re.compile(rf"[^{UNSEEN}](?:.*[^{UNSEEN}])?", re.DOTALL)
FORMS = 'answers are {"text": […], "answer_start": […]} or a list of {"text": …, "answer_start": …}; [] is none'


def answers(value: Any, context: str, at: str, column: str) -> tuple[Span, ...]:
    """The answers as characters [start, end) of the context; () for a question that has none.

    White space and unseen characters at an answer's edges, such as marks of direction, are no part of it.

    An answer that the context does not hold where it should is an error, as is one without a start that occurs twice.
    """
    return tuple(
        _span(found, start, context, f"{at}: {column}[{place}]")
        for place, (found, start) in enumerate(_listed(value, at, column))
    )


def _listed(value: Any, at: str, column: str) -> Sequence[tuple[Any, Any]]:
    if value is None:
        raise UserError(f"{at}: {column} is missing; [] says that there is none")
    if isinstance(value, str):
        return [(value, None)]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list | tuple):
        texts, starts = value["text"], value.get("answer_start")
        if not isinstance(starts, list | tuple) or len(starts) != len(texts):
            count = len(starts) if isinstance(starts, list | tuple) else "no"
            raise UserError(f"{at}: {column} has {len(texts)} in text, but {count} in answer_start")
        return list(zip(texts, starts, strict=True))
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        raise UserError(f"{at}: {column} is {shown(value)}; {FORMS}")
    return [_pair(item, at, column) for item in items]


def _pair(item: Any, at: str, column: str) -> tuple[Any, Any]:
    if isinstance(item, str):
        return item, None
    if not isinstance(item, Mapping) or "text" not in item:
        raise UserError(f"{at}: {column} holds {shown(item)}; {FORMS}")
    return item["text"], item.get("answer_start", item.get("start"))


def _span(found: Any, start: Any, context: str, at: str) -> Span:
    found = text(found, at, "its text")
    seen = SEEN.search(found)
    if seen is None:
        raise UserError(f"{at} is blank")
    if start is None:
        if context.count(found) != 1:
            raise UserError(
                f"{at}: {shown(found)} occurs {context.count(found)} times in the context; give answer_start"
            )
        start = context.index(found)
    if type(start) is not int or start < 0:
        raise UserError(f"{at}: answer_start is {shown(start)}, not a character's place")
    if context[start : start + len(found)] != found:
        there = shown(context[start : start + len(found)])
        raise UserError(f"{at} is {shown(found)} at character {start}, but the context has {there} there")
    return start + seen.start(), start + seen.end()
