"""A template's text to its pieces; OpenPrompt's dictionaries are pieces too, and LM-BFF's strings have stars."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from graftlm.core.errors import check_whole, unknown
from graftlm.prompts._dialects import LONGEST, from_lm_bff, is_lm_bff, openprompt_pieces
from graftlm.prompts._filters import FILTERS
from graftlm.prompts._template import (
    BREAK,
    ROLES,
    Break,
    Field,
    Mask,
    Piece,
    Soft,
    Template,
    Turn,
    Words,
    joined,
    wrong,
)

NAME = re.compile(r"[^\W\d][\w.\- ]*")


def parse(text: str) -> Template:
    """The pieces of a template; an error names the character."""
    if is_lm_bff(text):
        return joined(from_lm_bff(text))
    found: list[Piece] = []
    place = 0
    while place < len(text):
        sign, twice = text[place], text[place : place + 2]
        if twice in ("{{", "}}"):
            found.append(Words(sign))
            place += 2
        elif sign == BREAK:
            found.append(Break())
            place += 1
        elif sign == "}":
            raise wrong(place, "} closes nothing; }} stands for the sign itself")
        elif sign == "{":
            stop = _closing(text, place)
            found += _pieces(text[place + 1 : stop], place)
            place = stop + 1
        else:
            stop = next((at for at in range(place, len(text)) if text[at] in ("{", "}", BREAK)), len(text))
            found.append(Words(text[place:stop]))
            place = stop
    return joined(found)


def _closing(text: str, start: int) -> int:
    """Where the brace at `start` is closed; braces inside quotes do not count."""
    quote = ""
    place = start + 1
    quoted = text[place:].lstrip()[:1] in ('"', "'")
    while place < len(text):
        sign = text[place]
        if quote and sign == "\\":
            place += 1
        elif quote:
            quote = "" if sign == quote else quote
        elif quoted and sign in ('"', "'"):
            quote = sign
        elif sign == "}":
            return place
        elif sign == "{":
            raise wrong(place, "{ inside braces; {{ stands for the sign itself")
        place += 1
    raise wrong(start, "{ is not closed; {{ stands for the sign itself")


def _pieces(inside: str, place: int) -> list[Piece]:
    content = inside.strip()
    if inside == " ":
        return [Words(" ", exact=True)]
    if not content:
        raise wrong(place, "{} is empty; it holds a field, as {text}, or mask, or soft")
    if content[0] in ('"', "'"):
        return _from_dictionary(content, place)
    return [Words(BREAK) if content == BREAK else _piece(content, place)]


def _piece(content: str, place: int) -> Piece:
    name, *rest = (part.strip() for part in content.split(":"))
    if name == "mask":
        if rest not in ([], ["space"]):
            raise wrong(place, f"{{{content}}} has a filter; a mask has none but space")
        return Mask(True if rest else None)
    if name == "soft":
        return _soft(content, ":".join(rest), place)
    if name == "turn":
        if len(rest) != 1 or rest[0] not in ROLES:
            raise wrong(place, f"{{{content}}} names no speaker; {{turn:user}}, one of {', '.join(ROLES)}")
        return Turn(rest[0])
    if not NAME.fullmatch(name):
        raise wrong(place, f"{{{content}}} is no field's name, as {{text}}; {{{{ stands for the sign itself")
    for one in rest:
        if one not in FILTERS:
            raise wrong(place, str(unknown("filter", one, FILTERS)))
    name = name.removeprefix("meta.")
    if not name:
        raise wrong(place, f"{{{content}}} names no field behind meta.")
    return Field(name, tuple(rest))


def _soft(content: str, options: str, place: int) -> Soft:
    """`soft`, `soft:8`, `soft:id=1`, `soft:8,id=1`."""
    length, name = 0, ""
    for part in filter(None, (one.strip() for one in options.split(","))):
        key, equals, value = (side.strip() for side in part.partition("="))
        if equals and key == "id" and value and not name:
            name = value
        elif not equals and key.isdecimal() and 0 < int(key) <= LONGEST and not length:
            length = int(key)
        else:
            raise wrong(
                place, f'{{{content}}}: {part} is no number and no id; {{soft:8}}, {{soft:id=1}}, {{"soft": "It was"}}'
            )
    return Soft(length or (0 if name else 1), "", name)


def _from_dictionary(content: str, place: int) -> list[Piece]:
    values = _literal(content)
    if isinstance(values, set) and len(values) == 1:
        values = {str(next(iter(values))): None}
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        if "lambda" in content:
            raise wrong(place, "code is never run, as lambda; filters are written as {text:strip_period}")
        raise wrong(place, f'{{{content[:40]}}} is not readable; write it as {{"soft": 8}} or {{"mask"}}')
    for value in values.values():
        check_whole(str(value), f"template, character {place + 1}: {value!a}")
    try:
        return openprompt_pieces(values, place)
    except ValueError as error:
        raise wrong(place, str(error)) from None


def _literal(content: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read("{" + content + "}")
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None
