"""A vector for each label in place of its words, scored on the state that the LM head would score words on.

"openprompt" (its SoftVerbalizer): no bias. "warp" (Hambardzumyan et al., 2021, arXiv:2101.00121): a bias too.
Vectors start at the mean of the rows of a label's words in the LM head, and biases at the mean of theirs, so a fresh
one scores as the words do; WARP's code draws its biases.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from graftlm.core.config import Config
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._verbalizer import Verbalizer
from graftlm.prompts.verbalizers._words import Words, note_on, words_of
from graftlm.sites import Param, Tensors

SEES = False

NEEDS = ""


class Options(Config):
    """`words`: each label's, whose rows the vectors start from; a word of several tokens gives the rows of all."""

    words: Words
    variant: Literal["openprompt", "warp"] = "warp"


def class_scores(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states (b d), weight (c d), bias (c) -> (b c)."""
    return torch.nn.functional.linear(states, weight, bias)


def label_rows(rows: Tensor, owners: Tensor) -> Tensor:
    """rows (r …) of the LM head, owners (r) the label that each is of -> (c …): the mean of each label's."""
    return torch.stack([rows[owners == label].mean(0) for label in range(int(owners.max()) + 1)])


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    """Reads states alone."""
    words = words_of(config.words, labels, lexicon, "mean")
    tokens = torch.tensor([token for word in words for token in word.tokens])
    owners = torch.tensor([word.label for word in words for _ in word.tokens])
    rows, biases = lexicon.rows(tokens)
    weight = label_rows(rows, owners)
    params = {"weight": Param(tuple(weight.shape), lambda _: weight)}
    if config.variant == "warp":
        bias = torch.zeros(len(labels)) if biases is None else label_rows(biases, owners)
        params["bias"] = Param(tuple(bias.shape), lambda _: bias)

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        return class_scores(states[:, 0].to(own["weight"]), own["weight"], own.get("bias"))

    stored = {"name": "soft", **config.model_dump(mode="json")}
    notes = note_on([word.text for word in words if len(word.tokens) > 1], "a vector starts from the rows of them all")
    return Verbalizer(torch.zeros(0, dtype=torch.long), scores, stored, params=params, notes=notes)
