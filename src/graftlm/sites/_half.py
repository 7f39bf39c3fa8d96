"""A frozen base in bf16: its weights, and nothing that must stay exact."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def halve(parameters: Iterable[nn.Parameter]) -> None:
    """Casts fp32 parameters to bf16 where they are.

    A model's buffers are left alone, as Transformers leaves them: the frequencies of rotary positions, which are
    multiplied by places of hundreds and thousands, would be too coarse in bf16.
    """
    for parameter in parameters:
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
