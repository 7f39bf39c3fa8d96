"""Label words as tokens: what is no single token is handled by the rule that was asked for, or refused by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from graftlm.core.errors import UserError, unknown

Split = Literal["refuse", "first", "mean", "max", "drop"]
"""What becomes of a word of several tokens: an error; its first token; the mean or the largest of its tokens' logits at
the one mask; or it is left out."""


def _listed(value: Any) -> Any:
    """{label: word} and {label: [word, …]} are both taken."""
    if isinstance(value, Mapping):
        return {key: [own] if isinstance(own, str) else own for key, own in value.items()}
    return value


Words = Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_listed)]


@dataclass(frozen=True)
class Word:
    """A label word: the number of its label, and its tokens."""

    text: str
    label: int
    tokens: tuple[int, ...]


def tokens_of(word: str, tokenizer: Any) -> tuple[int, ...]:
    """A word's tokens behind other text: with a space before it, but for tokenizers that make a token of that alone."""

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    found = ids_of(" " + word.strip())
    if len(found) > 1 and not tokenizer.decode(found[:1]).strip():
        found = ids_of(word.strip())
    return tuple(found)


def words_of(words: Mapping[str, Sequence[str]], labels: Sequence[str], tokenizer: Any, split: Split) -> list[Word]:
    """Each label's words, in the order of the labels; what cannot be a word is refused by name."""
    for label in words:
        if label not in labels:
            raise unknown("label", label, labels)
    found: list[Word] = []
    for number, label in enumerate(labels):
        if not words.get(label):
            raise UserError(f'label "{label}" has no word; verbalizer.words says one, as {{"{label}": ["word"]}}')
        own = [Word(text, number, _known(text, label, tokenizer)) for text in words[label]]
        whole = [word for word in own if len(word.tokens) == 1 or split != "drop"]
        if not whole:
            raise UserError(f'each word of "{label}" is several tokens, and verbalizer.split = drop leaves none')
        if split == "refuse":
            _refuse_split(whole, label, tokenizer)
        found += whole
    return found


def _known(text: str, label: str, tokenizer: Any) -> tuple[int, ...]:
    tokens = tokens_of(text, tokenizer)
    if not tokens or tokenizer.unk_token_id in tokens:
        raise UserError(
            f'{type(tokenizer).__name__} has no token for the word "{text}" of label "{label}"; use another'
        )
    return tokens


def _refuse_split(words: Sequence[Word], label: str, tokenizer: Any) -> None:
    several = next((word for word in words if len(word.tokens) > 1), None)
    if several is not None:
        parts = " ".join(tokenizer.convert_ids_to_tokens(list(several.tokens)))
        raise UserError(
            f'the word "{several.text}" of label "{label}" is {len(several.tokens)} tokens, {parts}; verbalizer.split '
            "= first, mean, max or drop says what to do with it, or --multi-mask gives each token a mask"
        )


@dataclass(frozen=True)
class Table:
    """Words as places among `rows` (r): `places` (words tokens), −1 where a word has no more; `members` (c words)."""

    rows: Tensor
    places: Tensor
    members: Tensor


def table_of(words: Sequence[Word], labels: int, split: Split) -> Table:
    """The rows that words need, once each, and where each word's are among them."""
    own = [word.tokens[:1] if split == "first" else word.tokens for word in words]
    rows = sorted({token for tokens in own for token in tokens})
    place = {token: number for number, token in enumerate(rows)}
    places = [torch.tensor([place[token] for token in tokens]) for tokens in own]
    members = torch.tensor([word.label for word in words]) == torch.arange(labels)[:, None]
    return Table(torch.tensor(rows), torch.nn.utils.rnn.pad_sequence(places, True, -1), members)


def word_logits(logits: Tensor, places: Tensor, split: Split) -> Tensor:
    """logits (… r), places (words tokens) -> (… words): one token's, or the mean or the largest of several."""
    found = logits[..., places.clamp(min=0)]  # … words tokens
    if places.shape[1] == 1:
        return found[..., 0]
    if split == "max":
        return found.masked_fill(places < 0, -torch.inf).amax(-1)
    return found.masked_fill(places < 0, 0.0).sum(-1) / (places >= 0).sum(-1)
