"""Words that a user names for each label (PET; Schick and Schütze, 2021, arXiv:2001.07676, section 3).

A label's logit is the mean of its words' raw logits at the mask, weighted where weights are given; nothing is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, field_validator
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._verbalizer import Verbalizer, apart, of_each_label
from graftlm.sites import Tensors

Weights = Mapping[str, NonNegativeFloat]

NEEDS = ""


class Options(Config):
    """`words`: a label's word, a list of them, or words with weights. `several`: what stands for a word of several
    tokens, its "first" one; "refuse" names it.
    """

    words: Annotated[Mapping[str, Weights], Field(min_length=1)]
    several: Literal["refuse", "first"] = "refuse"

    @field_validator("words", mode="before")
    @classmethod
    def _weighted(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {label: _weights(label, words) for label, words in value.items()}


def _weights(label: str, words: Any) -> Any:
    listed = [words] if isinstance(words, str) else words
    if isinstance(listed, Sequence):
        if not all(isinstance(word, str) for word in listed):
            raise ValueError(f"the words of {label} are texts; write numbers and true or false in quotes")
        listed = dict.fromkeys(listed, 1.0)
    if not isinstance(listed, Mapping) or not listed or not all(str(word).strip() for word in listed):
        raise ValueError(f'the words of {label} are a text, a list of texts, or {{"great": 2, "good": 1}}')
    if all(weight == 0 for weight in listed.values()):
        raise ValueError(f"the words of {label} have no weight")
    return listed


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    rows: list[int] = []
    shares: list[tuple[int, int, float]] = []  # label, row, weight
    for place, words in enumerate(of_each_label(config.words, labels)):
        total = sum(words.values())
        for word, weight in words.items():
            token = _token(word, config, lexicon)
            rows += [token] if token not in rows else []
            shares.append((place, rows.index(token), weight / total))
    weights = torch.zeros(len(labels), len(rows))
    for place, row, share in shares:
        weights[place, row] += share
    apart(labels, [tuple(row) for row in weights.tolist()])
    stored = {"name": "manual", **config.model_dump(mode="json")}

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        return mean_logits(logits[:, 0], weights)

    long = [word for words in config.words.values() for word in words if len(lexicon.tokens(word)) > 1]
    notes = (f"the first of several tokens stands for: {', '.join(long)}",) if long else ()
    return Verbalizer(torch.tensor(rows), scores, stored, notes=notes)


def mean_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """logits (b r) of words, weights (c r) that add up to 1 a label -> (b c)."""
    return logits @ weights.to(logits).mT


def _token(word: str, config: Options, lexicon: Lexicon) -> int:
    found = lexicon.tokens(word)
    if len(found) > 1 and config.several == "refuse":
        raise UserError(
            f'the word "{word}" is {len(found)} tokens ({lexicon.said(found)}), and a mask is one; another word, or '
            "prompt.verbalizer.several = first, would work"
        )
    return found[0]
