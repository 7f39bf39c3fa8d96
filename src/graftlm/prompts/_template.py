"""The template language: one line of text with pieces in braces, `{premise}? {mask}, {hypothesis}`.

What stands in braces: a field, with filters behind colons (`{text:lower:shorten}`); `{meta.field}`; `{mask}`; virtual
tokens (`{soft:8}`, `{soft:id=1}`, `{"soft": "It was"}`); a turn of a conversation (`{turn:user}`). `{{` and `}}` are
braces, `‖` divides segments and `{‖}` is the sign itself; `{ }` is one space, where a segment begins too. What a field
is filled with is never read as a template.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from graftlm.core.errors import UserError
from graftlm.prompts._filters import FILTERS, SHORTEN

BREAK, ROLES = "‖", ("system", "user", "assistant")
ESCAPED = str.maketrans({"{": "{{", "}": "}}", BREAK: f"{{{BREAK}}}"})
TEXT, PAIR, TARGET = "text", "text_pair", "target"
OURS = ("mask", "soft", "turn")  # what stands in braces and is no field


@dataclass(frozen=True)
class Words:
    """Text as it stands. `exact`: the spaces that it begins with are all that stand before it, where a segment begins
    too."""

    text: str
    exact: bool = False

    def __str__(self) -> str:
        if self.exact:
            return "{ }" + self.text[1:].translate(ESCAPED)
        return self.text.translate(ESCAPED)


@dataclass(frozen=True)
class Special:
    """A special token: by what it is for, "<eos>", as OpenPrompt names it, or as the tokenizer spells it."""

    name: str

    def __str__(self) -> str:
        from json import dumps

        return f'{{"special": {dumps(self.name, ensure_ascii=False)}}}'


@dataclass(frozen=True)
class Field:
    """A column of the example, by its name."""

    name: str
    filters: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"meta.{self.name}" if self.name in OURS else self.name
        return "{" + ":".join((name, *self.filters)) + "}"

    @property
    def shortens(self) -> bool:
        """Whether it may be cut."""
        return SHORTEN in self.filters

    def written(self, value: str) -> str:
        """A value as it stands in the text."""
        for name in self.filters:
            value = FILTERS[name](value)
        return value


@dataclass(frozen=True)
class Mask:
    """Where the model says a word. `space`: whether one stands before the word, None as the template has it."""

    space: bool | None = None

    def __str__(self) -> str:
        return "{mask}" if self.space is None else "{mask:space}"


@dataclass(frozen=True)
class Soft:
    """Virtual tokens: `length` of them, or as many as `words` have tokens, from which they start.

    Pieces of one `name` are the same virtual tokens, and one that says no `length` (0) has what another of its name
    says; those without one are told apart by their `number`.
    """

    length: int = 1
    words: str = ""
    name: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.words:
            from json import dumps

            named = f', "id": {dumps(self.name)}' if self.name else ""
            return f'{{"soft": {dumps(self.words, ensure_ascii=False)}{named}}}'
        parts = [str(self.length)] if self.length > 1 or not self.name else []
        return "{soft:" + ",".join(parts + ([f"id={self.name}"] if self.name else [])) + "}"


@dataclass(frozen=True)
class Break:
    """The end of one segment and the start of the next."""

    def __str__(self) -> str:
        return BREAK


@dataclass(frozen=True)
class Turn:
    """From here on somebody else speaks."""

    role: str

    def __str__(self) -> str:
        return f"{{turn:{self.role}}}"


Piece = Words | Special | Field | Mask | Soft | Break | Turn


@dataclass(frozen=True)
class Template:
    """Pieces in order. `str` gives a text that reads as the same pieces."""

    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.pieces))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, each once, in order."""
        return tuple(dict.fromkeys(piece.name for piece in self.pieces if isinstance(piece, Field)))

    @property
    def turns(self) -> bool:
        """Whether it is a conversation."""
        return any(isinstance(piece, Turn) for piece in self.pieces)

    @cached_property
    def masks(self) -> int:
        return sum(isinstance(piece, Mask) for piece in self.pieces)

    @cached_property
    def softs(self) -> tuple[Soft, ...]:
        """The virtual pieces that are different from each other, in order."""
        return tuple(dict.fromkeys(piece for piece in self.pieces if isinstance(piece, Soft)))

    def before(self, piece: Piece) -> tuple[str, bool]:
        """The words right before a piece, "" where something else stands there, and whether the piece begins a text."""
        place = self.pieces.index(piece)
        before = self.pieces[place - 1] if place else Break()
        return before.text if isinstance(before, Words) else "", isinstance(before, (Break, Turn, Soft))


def joined(pieces: Sequence[Piece]) -> Template:
    """A template of pieces, words that stand side by side put together, and exact only where a segment begins."""
    named: dict[str, Soft] = {}
    for piece in pieces:
        if isinstance(piece, Soft) and piece.name and piece.length and named.setdefault(piece.name, piece) != piece:
            raise UserError(f"template: {piece} and {named[piece.name]} have one id; the same id means the same tokens")
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Soft) and not piece.length:
            piece = named.get(piece.name, replace(piece, length=1))
        if isinstance(piece, Soft) and not piece.name:
            found.append(replace(piece, number=sum(isinstance(own, Soft) for own in found) + 1))
        elif isinstance(piece, Words):
            before = found[-1] if found else None
            if isinstance(before, Words):
                piece = _together(before, piece)
                found.pop()
            begins = not found or isinstance(found[-1], Break)
            if piece.text:
                found.append(Words(piece.text, piece.exact and begins and piece.text.startswith(" ")))
        else:
            found.append(piece)
    return Template(tuple(found))


def _together(first: Words, second: Words) -> Words:
    if not second.exact:
        return Words(first.text + second.text, first.exact)
    kept = first.text.rstrip(" ")
    return Words(kept + second.text, first.exact if kept else True)


def wrong(place: int, why: str) -> UserError:
    """An error about one place of a template, counted from 1."""
    return UserError(f"template, character {place + 1}: {why}")


def segments(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """The pieces between breaks."""
    own: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Break):
            yield own
            own = []
        else:
            own.append(piece)
    yield own
