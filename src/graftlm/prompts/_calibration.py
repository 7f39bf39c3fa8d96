"""What a prompt says of its labels before it has read a text, taken off what it says of one.

"contextual" (Zhao et al., 2021, arXiv:2102.09690): probabilities over the labels are divided by their mean over texts
without content, "N/A", an empty one and a mask: W = diag(p_cf)⁻¹, b = 0. "pmi" (Holtzman et al., 2021,
arXiv:2104.08315): log p(y | x) − log p(y | the prompt around an empty text).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Calibration = Literal["contextual", "pmi"]


def empty_texts(calibration: Calibration, mask: str | None) -> Sequence[str]:
    """The texts without content; a tokenizer without a mask has one fewer."""
    if calibration == "pmi":
        return ("",)
    return ("N/A", "") if mask is None else ("N/A", "", mask)


def before(logits: Tensor) -> Tensor:
    """logits (texts c) of texts without content -> (c): the log of the labels' mean probability."""
    return logits.log_softmax(-1).logsumexp(0) - torch.log(torch.tensor(float(logits.shape[0])))


def calibrated(logits: Tensor, before: Tensor) -> Tensor:
    """logits (b c), log-probabilities (c) without content -> (b c): log p(y | x) − log p(y), p over the labels.

    For one text without content the two ways are one: what p over the whole vocabulary would differ by is the same in
    all labels.
    """
    return logits.log_softmax(-1) - before
