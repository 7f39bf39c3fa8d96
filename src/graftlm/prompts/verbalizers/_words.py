"""Label words as tokens: what is no single token is handled by the rule that was asked for, or refused by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._verbalizer import of_each_label

Several = Literal["refuse", "first", "mean", "max", "drop"]
"""What becomes of a word of several tokens: an error; its first token; the mean or the largest of its tokens' logits at
the one mask; or it is left out."""

MOST = 8  # words that a note names
WHAT = {
    "first": "the first stands in its place",
    "mean": "their mean stands in its place",
    "max": "the largest stands in its place",
    "drop": "left out",
}


def _listed(value: Any) -> Any:
    """{label: word} and {label: [word, …]} are both taken."""
    if isinstance(value, Mapping):
        return {key: [own] if isinstance(own, str) else own for key, own in value.items()}
    return value


Words = Annotated[Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]], BeforeValidator(_listed)]


@dataclass(frozen=True)
class Word:
    """A label word: the number of its label, and its tokens."""

    text: str
    label: int
    tokens: tuple[int, ...]


def words_of(
    words: Mapping[str, Sequence[str]], labels: Sequence[str], lexicon: Lexicon, several: Several
) -> list[Word]:
    """Each label's words, in the order of the labels; what cannot be a word is refused by name."""
    found: list[Word] = []
    for number, texts in enumerate(of_each_label(words, labels)):
        own = [Word(text, number, tuple(lexicon.tokens(text))) for text in texts]
        whole = [word for word in own if len(word.tokens) == 1 or several != "drop"]
        if not whole:
            raise UserError(f'"{labels[number]}" has no word of one token, and prompt.verbalizer.several = drop')
        if several == "refuse":
            _refuse_several(whole, lexicon)
        found += whole
    return found


def _refuse_several(words: Sequence[Word], lexicon: Lexicon) -> None:
    long = next((word for word in words if len(word.tokens) > 1), None)
    if long is not None:
        raise UserError(
            f'the word "{long.text}" is {len(long.tokens)} tokens ({lexicon.said(list(long.tokens))}), and a mask is '
            "one; another word, or prompt.verbalizer.several = first, mean, max or drop, would work"
        )


def notes_on(given: Mapping[str, Sequence[str]], used: Sequence[Word], several: Several) -> tuple[str, ...]:
    """Which words are several tokens, and what the rule makes of them."""
    kept = {word.text for word in used}
    dropped = [word for own in given.values() for word in own if word not in kept]
    long = dropped if several == "drop" else [word.text for word in used if len(word.tokens) > 1]
    return () if several == "refuse" else note_on(long, f"{WHAT[several]} (several = {several})")


def note_on(long: Sequence[str], what: str) -> tuple[str, ...]:
    """That words are several tokens, and what becomes of them; nothing where there are none."""
    if not long:
        return ()
    listed = ", ".join(long[:MOST]) + (", …" if len(long) > MOST else "")
    count = f"{len(long)} words are" if len(long) > 1 else "1 word is"
    return (f"{count} of several tokens, and {what}: {listed}",)


@dataclass(frozen=True)
class Table:
    """Words as places among `rows` (r): `places` (words tokens), −1 where a word has no more; `members` (c words)."""

    rows: Tensor
    places: Tensor
    members: Tensor

    @property
    def shares(self) -> Tensor:
        """(c words): each of a label's words counts the same."""
        return self.members / self.members.sum(1, keepdim=True)


def table_of(words: Sequence[Word], labels: int, several: Several) -> Table:
    """The rows that words need, once each, and where each word's are among them."""
    own = [word.tokens[:1] if several == "first" else word.tokens for word in words]
    rows = sorted({token for tokens in own for token in tokens})
    place = {token: number for number, token in enumerate(rows)}
    places = [torch.tensor([place[token] for token in tokens]) for tokens in own]
    members = torch.tensor([word.label for word in words]) == torch.arange(labels)[:, None]
    return Table(torch.tensor(rows), torch.nn.utils.rnn.pad_sequence(places, True, -1), members)


def word_logits(logits: Tensor, places: Tensor, several: Several) -> Tensor:
    """logits (… r), places (words tokens) -> (… words): one token's, or the mean or the largest of several."""
    found = logits[..., places.clamp(min=0)]  # … words tokens
    if places.shape[1] == 1:
        return found[..., 0]
    if several == "max":
        return found.masked_fill(places < 0, -torch.inf).amax(-1)
    return found.masked_fill(places < 0, 0.0).sum(-1) / (places >= 0).sum(-1)
