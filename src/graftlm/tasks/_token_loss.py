"""What tasks of tags on tokens learn from: a goal for each place of each row."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from graftlm.kernels.cross_entropy import UNREAD, reference


def goals_of(rows: list[Tensor]) -> Tensor:
    """Each row's goals (places) -> (rows places), `UNREAD` where a row has no more."""
    return pad_sequence(rows, batch_first=True, padding_value=UNREAD) if rows else torch.zeros(0, 0, dtype=torch.long)


def token_loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b w c), goals (b w') -> (b): the mean cross-entropy of a row's places."""
    width = min(logits.shape[1], goals.shape[1])
    goals = goals[:, :width]
    each = functional.cross_entropy(logits[:, :width].mT, goals, ignore_index=UNREAD, reduction="none")  # b w
    return each.sum(1) / (goals != UNREAD).sum(1).clamp(min=1)


def language_loss(logits: Tensor, goals: Tensor) -> Tensor:
    """The same as `token_loss` over a vocabulary: logits (b w v), goals (b w') -> (b)."""
    width = min(logits.shape[1], goals.shape[1])
    return reference(logits[:, :width], goals[:, :width])
