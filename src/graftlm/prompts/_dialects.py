"""Templates as other libraries write them: LM-BFF's strings between stars, and OpenPrompt's dictionaries."""

import re
from collections.abc import Mapping
from typing import Any

from graftlm.prompts._filters import SHORTEN
from graftlm.prompts._template import PAIR, TEXT, Break, Field, Mask, Piece, Soft, Special, Words, wrong

SENTENCE = re.compile(r"(\+?)sent([lu]?)(-?)_(\d)")
SENTENCES = re.compile(r"\+?sent\W?\w?\W?_\d+")
CASES = {"l": ("first_lower",), "u": ("first_upper",), "": ()}
PLACEHOLDERS = {"text_a": TEXT, "text_b": PAIR}
LONGEST = 10_000  # virtual tokens of one piece
KINDS = ("placeholder", "meta", "mask", "soft", "text", "special", "soft_id")
PREFIX = "add_prefix_space"
BESIDES = {
    "placeholder": ("shortenable",),
    "meta": ("shortenable",),
    "soft": ("duplicate", "same", "soft_id", "id"),
    "mask": (),
    "text": ("shortenable",),
    "special": (),
    "soft_id": (),
}


def is_lm_bff(text: str) -> bool:
    """`*cls**sent_0*_It_was*mask*.*sep+*` (Gao et al., 2021): it begins with a star, and has *mask* in it."""
    return text.startswith("*") and "*mask*" in text


def from_lm_bff(text: str) -> list[Piece]:
    """Chunks between stars: names of tokens and sentences by turns with words, in which _ is a space.

    Every label word has a space before it, and words and sentences the one that is written, where a segment begins too.
    *cls* is the tokenizer's own; a sentence may be cut.
    """
    found: list[Piece] = []
    place = 0
    for chunk in text.split("*"):
        sentence = SENTENCE.fullmatch(chunk)
        if chunk == "sep+":
            found.append(Break())
        elif chunk == "sep":  # the sign alone: what follows stays in the segment
            found.append(Special("<sep>"))
        elif chunk == "mask":
            found.append(Mask(True))
        elif sentence is not None:
            found += _sentence(sentence, place)
        elif chunk.startswith(("label_", "labelx_")):
            raise wrong(place, f"*{chunk}* is of a demonstration; a template of the text alone would work")
        elif SENTENCES.fullmatch(chunk):
            raise wrong(place, f"*{chunk}* is none of LM-BFF's sentences, as *sent_0*, *+sent_1*, *sentl_0*, *sent-_1*")
        elif chunk not in ("", "cls"):
            found.append(Words(chunk.replace("_", " "), chunk.startswith("_")))
        place += len(chunk) + 1
    while found and (isinstance(found[-1], Break) or found[-1] == Special("<sep>")):
        found.pop()
    return found


def _sentence(found: re.Match[str], place: int) -> list[Piece]:
    space, case, cut, number = found.groups()
    if number not in "01":
        raise wrong(place, f"*sent_{number}*, and an example has one text or two; sent_0 and sent_1 would work")
    filters = (*(("drop_last",) if cut else ()), *CASES[case], SHORTEN)
    return [Words(" ", True) if space else Words(""), Field((TEXT, PAIR)[int(number)], filters)]


def openprompt_pieces(values: Mapping[str, Any], place: int) -> list[Piece]:
    """{"placeholder": "text_a"}, {"meta": "source"}, {"mask"}, {"soft": None, "duplicate": 8, "soft_id": 1}, …

    {"soft": 8} is ours. "add_prefix_space" is all the space before a piece. A ValueError says what cannot be read.
    """
    kind = next((key for key in values if key in KINDS), None)
    if kind is None:
        raise ValueError(f'no piece "{next(iter(values), "")}"; there is {", ".join(KINDS)}')
    for key in values:
        if key not in (kind, PREFIX, *BESIDES[kind]):
            raise ValueError(f'"{key}" beside "{kind}" cannot be read; filters are written as {{text:strip_period}}')
    space = values.get(PREFIX)
    if PREFIX in values and space not in ("", " "):
        raise ValueError(f'"{PREFIX}": {space!r} is neither " " nor ""')
    return [*([] if space is None else [Words(space, exact=True)]), *_openprompt(kind, values, place)]


def _openprompt(kind: str, values: Mapping[str, Any], place: int) -> list[Piece]:
    value = values[kind]
    if kind == "mask":
        return [Mask()]
    if kind == "soft":
        return _soft(values, place)
    if kind == "soft_id":
        return [Soft(0, "", str(value))]
    if not isinstance(value, str) or not value:
        raise ValueError(f'"{kind}" needs a name')
    if kind == "special":
        return [Special(value)]
    if kind == "text":
        return [Words(value)]
    shortens = values.get("shortenable", kind == "placeholder")  # OpenPrompt cuts placeholders by default
    return [Field(PLACEHOLDERS.get(value, value), (SHORTEN,) if shortens is True else ())]


def _soft(values: Mapping[str, Any], place: int) -> list[Piece]:
    value, count, same = values["soft"], values.get("duplicate"), values.get("same", False)
    name = str(values.get("soft_id", values.get("id", "")))
    if isinstance(value, str) and value.strip():
        if count is not None or same:
            raise ValueError('"duplicate" and "same" are of virtual tokens without words')
        return [Soft(1, value.strip(), name)]
    if value is not None and count is not None:
        raise ValueError('"duplicate" is of {"soft": null}; {"soft": 8} says how many by itself')
    length = value if value is not None else count if count is not None else 0 if name else 1
    if type(length) is not int or not (0 < length <= LONGEST or (length == 0 and value is count is None)):
        raise ValueError(f'"soft": {length!r} is neither a number of virtual tokens nor words to start from')
    if same is True and length > 1:  # one virtual token, many times
        return [Soft(1, "", name or f"same-{place + 1}")] * length
    return [Soft(length, "", name)]
