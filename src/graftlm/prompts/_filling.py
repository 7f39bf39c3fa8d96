"""A template filled with examples: token ids, where the mask is, and what was cut for want of room.

The words between two virtual pieces are tokenised in one piece, masks included, so that they become the tokens that
they would in a text; offsets say which token is whose. Spaces before a mask, a virtual piece or a break belong to
what stands there, and a segment begins with none that is not exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from graftlm.core.errors import UserError
from graftlm.prompts._frame import Frame
from graftlm.prompts._template import Field, Mask, Piece, Soft, Template, Words, segments

Owner = Literal["special", "words", "field", "soft", "mask"]
Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a filled template, and whose it is; `piece` numbers the field that it comes from, −1 of none."""

    id: int
    owner: Owner
    piece: int = -1
    kind: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Filled:
    """A filled template, with the tokens that were cut still in their places."""

    tokens: Sequence[Token]
    typed: bool
    causal: bool

    @property
    def kept(self) -> list[Token]:
        return [token for token in self.tokens if not token.cut]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.kept]

    @property
    def types(self) -> list[int] | None:
        return [token.kind for token in self.kept] if self.typed else None

    @property
    def places(self) -> list[int]:
        """Where the masks are; behind a causal model's text it is the last token that foresees it."""
        if self.causal:
            return [len(self.kept) - 1]
        return [place for place, token in enumerate(self.kept) if token.owner == "mask"]

    @property
    def shortened(self) -> bool:
        return any(token.cut for token in self.tokens)


@dataclass
class _Run:
    """Words to be tokenised in one piece, whose the characters are, and where its tokens go.

    `exact`: the spaces that it begins with stay.
    """

    text: str = ""
    exact: bool = False
    spans: list[tuple[int, int, int, Owner]] = field(default_factory=list)

    def add(self, text: str, owner: Owner, piece: int) -> None:
        self.spans.append((len(self.text), len(self.text) + len(text), piece, owner))
        self.text += text

    def strip(self, left: bool, right: bool) -> None:
        """Takes spaces off the ends, and moves what is known of the characters."""
        self.text = self.text.rstrip(" ") if right else self.text
        kept = self.text.lstrip(" ") if left else self.text
        moved, self.text = len(self.text) - len(kept), kept
        size = len(kept)
        self.spans = [
            (max(0, start - moved), min(size, stop - moved), piece, owner) for start, stop, piece, owner in self.spans
        ]


@dataclass(frozen=True)
class Filler:
    """Fills one template for one model. `slots`: the ids of each virtual piece, `masks`: a mask's number of tokens."""

    template: Template
    frame: Frame
    slots: Mapping[Soft, Sequence[int]] = field(default_factory=dict)
    masks: int = 1

    @property
    def virtual(self) -> int:
        """The virtual tokens of each filled template."""
        return sum(len(self.slots[piece]) for piece in self.template.pieces if isinstance(piece, Soft))

    def fill(self, rows: Sequence[Values], room: int, *, filtered: bool = True) -> list[Filled]:
        """Each row as at most `room` tokens; only what is marked `shorten` is cut, a token of the longest at a time.

        Virtual tokens count. Without `filtered` a field's text stands as it is.
        """
        plans = [self._plan(values, filtered) for values in rows]
        runs = [part for plan in plans for segment in plan for part in segment if isinstance(part, _Run)]
        tokens = iter(self._tokens(runs))
        return [self._cut(self._framed([self._flat(segment, tokens) for segment in plan]), room) for plan in plans]

    def _plan(self, values: Values, filtered: bool) -> list[list[_Run | Soft]]:
        """For each segment its words and virtual pieces in order."""
        number = {id(piece): place for place, piece in enumerate(self.template.pieces)}
        plan: list[list[_Run | Soft]] = []
        for segment in segments(self.template.pieces):
            parts: list[_Run | Soft] = [_Run()]
            for piece in segment:
                if isinstance(piece, Soft):
                    parts += [piece, _Run()]
                else:
                    self._add(parts[-1], piece, number[id(piece)], values, filtered)  # pyright: ignore[reportArgumentType]
            for place, part in enumerate(parts):
                if isinstance(part, _Run):
                    part.strip(left=(place == 0 and not part.exact) or self.frame.spaced, right=True)
            plan.append([part for part in parts if not isinstance(part, _Run) or part.text])
        return plan

    def _add(self, run: _Run, piece: Piece, number: int, values: Values, filtered: bool) -> None:
        if isinstance(piece, Words):
            run.exact = run.exact or piece.exact
            run.add(piece.text, "words", -1)
        elif isinstance(piece, Field):
            value = values[piece.name]
            run.add(piece.written(value) if filtered else value, "field", number)
        elif isinstance(piece, Mask) and self.frame.mask is not None:
            run.strip(left=False, right=True)
            run.add(self.frame.mask[0] * self.masks, "mask", -1)

    def _tokens(self, runs: Sequence[_Run]) -> list[list[Token]]:
        if not runs:
            return []
        found = self.frame.tokenizer(
            [run.text for run in runs],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            [self._token(token, span, run) for token, span in zip(ids, offsets, strict=True)]
            for run, ids, offsets in zip(runs, found["input_ids"], found["offset_mapping"], strict=True)
        ]

    def _token(self, token: int, span: tuple[int, int], run: _Run) -> Token:
        """A token is a field's where all its characters are, save a space before them, and a mask where it is one."""
        start, stop = span
        written = run.text[start:stop]
        if written.strip():
            start += len(written) - len(written.lstrip())
        for first, last, piece, owner in run.spans:
            if owner == "mask" and start < last and first < stop and self.frame.mask and token == self.frame.mask[1]:
                return Token(token, "mask")
            if owner == "field" and first <= start < stop <= last:
                return Token(token, "field", piece)
        return Token(token, "words")

    def _flat(self, segment: Sequence[_Run | Soft], tokens: "object") -> list[Token]:
        found: list[Token] = []
        for part in segment:
            if isinstance(part, Soft):
                found += [Token(slot, "soft") for slot in self.slots[part]]
            else:
                found += next(tokens)  # pyright: ignore[reportArgumentType]
        return found

    def _framed(self, parts: Sequence[list[Token]]) -> Filled:
        frame, second = self.frame, self.frame.second or 0
        found = [Token(token, "special") for token in frame.before]
        for place, part in enumerate(parts):
            kind = second if place else 0
            if place:
                # the sign between two segments belongs to the first, as tokenizers have it
                found += [Token(token, "special", kind=second if place > 1 else 0) for token in frame.between]
            found += [replace(token, kind=kind) for token in part]
        kind = second if len(parts) > 1 else 0
        found += [Token(token, "special", kind=kind) for token in frame.after]
        found = found or [Token(frame.end, "special")]
        return Filled(found, frame.second is not None, frame.kind == "causal")

    def _cut(self, filled: Filled, room: int) -> Filled:
        over = len(filled.tokens) - room
        if over <= 0:
            return filled
        own: dict[int, list[int]] = {}
        for place, token in enumerate(filled.tokens):
            piece = self.template.pieces[token.piece] if token.owner == "field" else None
            if isinstance(piece, Field) and piece.shortens:
                own.setdefault(token.piece, []).append(place)
        if sum(map(len, own.values())) < over:
            raise self._too_long(len(filled.tokens), room, own)
        dropped: set[int] = set()
        for _ in range(over):
            longest = max(own, key=lambda piece: len(own[piece]))
            dropped.add(own[longest].pop())
        tokens = [replace(token, cut=place in dropped) for place, token in enumerate(filled.tokens)]
        return replace(filled, tokens=tokens)

    def _too_long(self, size: int, room: int, own: Mapping[int, Sequence[int]]) -> UserError:
        fields = [str(piece) for piece in self.template.pieces if isinstance(piece, Field) and not piece.shortens]
        if not fields:
            virtual = f", {self.virtual} virtual ones among them" if self.virtual else ""
            return UserError(
                f'template "{self.template}" alone has more than the {room} tokens that there is room for{virtual}'
            )
        marked = fields[0].replace("}", ":shorten}")
        return UserError(
            f"a filled template has {size} tokens, and there is room for {room}; only fields that are marked are cut: "
            f"write {marked}"
        )
