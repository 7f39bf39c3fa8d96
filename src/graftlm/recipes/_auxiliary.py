"""Masked language modelling beside a prompt's own loss, on the same filled templates (PET's auxiliary loss)."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.objectives import mlm
from graftlm.tasks import Features


def masked_rows(
    rows: Sequence[Features], keys: Tensor, special: Collection[int], mask: int, vocabulary: int
) -> tuple[list[Features], Tensor]:
    """The rows with more masks, read at those, and what stood there (rows w), −100 where a row has no more.

    `keys` (rows) say what is drawn. The template's own mask is a special token, and so stays. A row without words
    keeps its first place, whose loss is 0.
    """
    found: list[Features] = []
    words: list[Tensor] = []
    for row, key in zip(rows, keys.tolist(), strict=True):
        kept = {*special, *(token for token in row.ids if token >= vocabulary)}
        own = mlm.masked(row.ids, kept, mask, vocabulary, key)
        found.append(replace(row, ids=own.ids, places=own.places or [0]))
        words.append(torch.tensor(own.words or [mlm.UNREAD]))
    return found, torch.nn.utils.rnn.pad_sequence(words, True, mlm.UNREAD)


def mask_of(tokenizer: Any, kind: str) -> int:
    """The mask's id; a model without one is refused."""
    if kind != "masked":
        raise UserError("mlm_weight needs a masked model, as bert or roberta, and this one is none")
    return int(tokenizer.mask_token_id)
