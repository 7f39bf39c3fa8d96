"""A vector for each label in place of its words, scored on the state that the LM head would score words on.

"openprompt" (OpenPrompt's SoftVerbalizer): no bias. "warp" (Hambardzumyan et al., 2021, arXiv:2101.00121): a bias too.
Vectors start at the mean of the rows of a label's words in the LM head, and biases at the mean of theirs, so a fresh
one scores as the words do; WARP's code draws its biases.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def class_scores(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states (n b d), weight (n c d), bias (n c) -> (n b c)."""
    out = states @ weight.mT
    return out if bias is None else out + bias[:, None]


def label_rows(rows: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """rows (v …) of the LM head, the tokens of each label's words -> (c …): the mean of each label's."""
    return torch.stack([rows[list(tokens)].mean(0) for tokens in words])
