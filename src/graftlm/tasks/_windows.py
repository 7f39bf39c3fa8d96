"""Texts longer than a model takes, as rows that overlap, so that nothing is cut; and where each token stands."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from graftlm.core.errors import UserError
from graftlm.tasks._features import Features, Reading, check_length

Span = tuple[int, int]
JOINERS = "\u200c\u200d"
TAGS = "".join(map(chr, range(0xE0020, 0xE0080)))  # what makes a black flag one of England


@dataclass(frozen=True)
class Window:
    """One row of a text, or of a pair's second text.

    `places` of its ids are tokens of that text, which begin with the text's token number `start`; `spans` are the
    characters [start, end) of each, without white space around it. `special` are the places of no text's tokens.
    """

    features: Features
    owner: int
    start: int
    places: list[int]
    spans: list[Span]
    special: list[int]
    last: bool

    def context(self, place: int) -> float:
        """How many tokens stand on the nearer side of the `place`-th token; an end of the text is no border."""
        before = place if self.start else float("inf")
        after = float("inf") if self.last else len(self.places) - 1 - place
        return min(before, after)


def windows(texts: Sequence[str], pairs: Sequence[str] | None, reading: Reading, stride: int) -> list[Window]:
    """The rows of each text, or of each pair with its first text in front of every part of the second.

    Neighbouring rows share `stride` tokens: of a text half of a row where that is less, and of a pair fewer than its
    first text leaves in a row.
    """
    tokenizer = reading.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is no fast tokenizer, so it does not know where its tokens stand")
    if not texts:
        return []
    shared = stride
    if pairs is None:
        added = tokenizer.num_special_tokens_to_add(False)
        check_length(reading.length, added)
        shared = min(stride, (reading.length - added) // 2)
    with _first_part_first(tokenizer):
        found = tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation="only_first" if pairs is None else "only_second",
            max_length=reading.length,
            stride=shared,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
            verbose=False,
        )
    read = texts if pairs is None else pairs
    rows: list[Window] = []
    owners: list[int] = found["overflow_to_sample_mapping"]
    for row, owner in enumerate(owners):
        before = rows[-1] if rows and rows[-1].owner == owner else None
        start = before.start + len(before.places) - shared if before is not None else 0
        last = row + 1 == len(owners) or owners[row + 1] != owner
        rows.append(_window(found, row, owner, read[owner], start, last, pairs is not None))
    return _with_marks(read, rows)


@contextmanager
def _first_part_first(tokenizer: Any) -> Iterator[None]:
    """Has the parts of a text come in their order, which they do where a tokenizer cuts at the right."""
    side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        yield
    finally:
        tokenizer.truncation_side = side


def _window(found: Any, row: int, owner: int, text: str, start: int, last: bool, paired: bool) -> Window:
    sequence = found.sequence_ids(row)
    places = [place for place, which in enumerate(sequence) if which == int(paired)]
    special = [place for place, which in enumerate(sequence) if which is None]
    types = found["token_type_ids"][row] if "token_type_ids" in found else None
    spans = [_without_space(text, *found["offset_mapping"][row][place]) for place in places]
    return Window(Features(found["input_ids"][row], types), owner, start, places, spans, special, last)


def _without_space(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _with_marks(texts: Sequence[str], rows: Sequence[Window]) -> list[Window]:
    """Spans with the marks behind them that no token is of: tokenizers drop accents, or join them to a letter."""
    held: dict[int, set[int]] = {}
    for row in rows:
        held.setdefault(row.owner, set()).update(place for start, end in row.spans for place in range(start, end))

    def reaching(owner: int, start: int, end: int) -> Span:
        text, taken = texts[owner], held[owner]
        while start < end < len(text) and end not in taken and is_mark(text[end]):
            end += 1
        return start, end

    return [replace(row, spans=[reaching(row.owner, *span) for span in row.spans]) for row in rows]


def is_mark(character: str) -> bool:
    """Whether a character is a part of the letter before it, or joins what is on its two sides."""
    return not character.isascii() and (
        character in JOINERS or character in TAGS or unicodedata.category(character)[0] == "M"
    )


def _rooms(firsts: Sequence[str], reading: Reading) -> list[int]:
    """The tokens that each first text leaves in a row."""
    tokenizer = reading.tokenizer
    ids = tokenizer(list(firsts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [reading.length - tokenizer.num_special_tokens_to_add(True) - len(own) for own in ids]


def chosen_tokens(words: Sequence[Span], parts: Sequence[Window], last: bool) -> dict[int, tuple[int, int]]:
    """For each word that has a token, the part that it is read in and which of the part's tokens is read."""
    tokens: dict[int, Span] = {}
    for part in parts:
        tokens |= dict(enumerate(part.spans, part.start))
    chosen: dict[int, tuple[int, int]] = {}
    token = 0
    for word, (start, end) in enumerate(words):
        while token in tokens and tokens[token][1] <= start:
            token += 1
        own = token
        while own in tokens and (tokens[own][1] <= start or tokens[own][0] == tokens[own][1]):
            own += 1
        if own not in tokens or tokens[own][0] >= end:
            continue
        while last and own + 1 in tokens and tokens[own + 1][0] < end:
            own += 1
        holding = [
            (part.context(own - part.start), -number)
            for number, part in enumerate(parts)
            if part.start <= own < part.start + len(part.spans)
        ]
        number = -max(holding)[1]
        chosen[word] = (number, own - parts[number].start)
    return chosen


def questioned(pairs: Sequence[tuple[str, str]], reading: Reading, stride: int) -> tuple[list[Window], int]:
    """The windows of each context behind its question, and how many questions were cut to half of a row.

    `special` holds one place: a special token that has seen the row, the last one where the model is causal. One is
    put at the end if the tokenizer places none there, and a line break after the question if it places nothing.
    """
    if not pairs:
        return [], 0
    between, special = _layout(reading)
    room = replace(reading, length=reading.length - (special is None))
    questions, long = _halved([question for question, _ in pairs], room)
    firsts = [question + between for question in questions]
    rooms = _rooms(firsts, room)
    check_length(reading.length, reading.length - min(rooms))
    found = _each(firsts, [context for _, context in pairs], room, [min(stride, own // 2) for own in rooms])
    if special is not None:
        return [replace(window, special=[special % len(window.features.ids)]) for window in found], long
    end = next((token for token in _ends(reading.tokenizer) if token is not None), 0)
    return [_ended(window, end) for window in found], long


def _each(firsts: Sequence[str], seconds: Sequence[str], reading: Reading, shared: Sequence[int]) -> list[Window]:
    """The windows of pairs, by pair; a pair's neighbours share its own number of tokens."""
    found: list[Window] = []
    for stride in dict.fromkeys(shared):
        owners = [owner for owner, own in enumerate(shared) if own == stride]
        part = windows([firsts[owner] for owner in owners], [seconds[owner] for owner in owners], reading, stride)
        found += [replace(window, owner=owners[window.owner]) for window in part]
    return sorted(found, key=lambda window: window.owner)


def _layout(reading: Reading) -> tuple[str, int | None]:
    """What must stand after a question, and which place of a row is a special token that has seen it."""
    order = reading.tokenizer("a", "a").sequence_ids(0)
    if not {0, 1} <= {*order}:
        return "", None
    between = "" if None in order[order.index(0) : order.index(1)] else "\n"
    first, last = order[0] is None, order[-1] is None
    if first and not reading.causal:
        return between, 0
    return between, -1 if last else None


def _ends(tokenizer: Any) -> list[int | None]:
    return [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id]


def _ended(window: Window, end: int) -> Window:
    ids, types = window.features.ids, window.features.types
    features = Features([*ids, end], None if types is None else [*types, types[-1] if types else 0])
    return replace(window, features=features, special=[len(ids)])


def _halved(texts: Sequence[str], reading: Reading) -> tuple[list[str], int]:
    """The texts cut to half of the tokens that a row has room for, and how many were cut."""
    tokenizer = reading.tokenizer
    most = max(0, (reading.length - tokenizer.num_special_tokens_to_add(True)) // 2)
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    cut = [
        text[: min(spans[most - 1][1], spans[most][0])] if len(spans) > most else text
        for text, spans in zip(texts, found["offset_mapping"], strict=True)
    ]
    return cut, sum(len(spans) > most for spans in found["offset_mapping"])
