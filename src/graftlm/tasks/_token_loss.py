"""What tasks of tags on tokens learn from: a goal for each place of each row."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

UNREAD = -100  # the goal of a place that stands for nothing


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
    """The same as `token_loss` in a layout for many classes: logits (b w v), goals (b w') -> (b)."""
    width = min(logits.shape[1], goals.shape[1])
    goals, logits = goals[:, :width], logits[:, :width]
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    each = functional.cross_entropy(logits.flatten(0, 1), goals.flatten(), ignore_index=UNREAD, reduction="none")
    return each.view(goals.shape).sum(1) / (goals != UNREAD).sum(1).clamp(min=1)
