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
from graftlm.prompts.verbalizers._verbalizer import Given, Verbalizer
from graftlm.prompts.verbalizers._words import Words, words_of
from graftlm.sites import Param, Tensors

SEES = False


class Options(Config):
    """`words`: each label's, whose rows the vectors start from; a word of several tokens gives the rows of all."""

    words: Words
    variant: Literal["openprompt", "warp"] = "warp"


def class_scores(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states (n b d), weight (n c d), bias (n c) -> (n b c)."""
    out = states @ weight.mT
    return out if bias is None else out + bias[:, None]


def label_rows(rows: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """rows (v …) of the LM head, the tokens of each label's words -> (c …): the mean of each label's."""
    return torch.stack([rows[list(tokens)].mean(0) for tokens in words])


def make(options: Options, given: Given) -> Verbalizer:
    """Reads states alone."""
    words = words_of(options.words, given.labels, given.tokenizer, "mean")
    tokens = [[token for word in words if word.label == n for token in word.tokens] for n in range(len(given.labels))]
    weight = label_rows(given.rows.detach().float(), tokens)
    params = {"weight": Param(tuple(weight.shape), lambda _: weight)}
    if options.variant == "warp":
        bias = torch.zeros(len(tokens)) if given.bias is None else label_rows(given.bias.detach().float(), tokens)
        params["bias"] = Param(tuple(bias.shape), lambda _: bias)

    def score(states: Tensor, logits: Tensor, p: Tensors) -> Tensor:
        return class_scores(states, p["weight"], p.get("bias"))

    return Verbalizer(torch.zeros(0, dtype=torch.long), score, params, needs_states=True)
