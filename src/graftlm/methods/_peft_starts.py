"""PEFT's LoRA that starts from the base's own weight, "pissa" and "olora", and takes its start from the base.

PEFT keeps the trained factors alone and finds the start again when it loads them: W' = W − s B₀ A₀ + s B A. That is a
plain LoRA of twice the rank: A over A₀, and B beside −B₀.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import UserError

STARTS = ("pissa", "olora")


def beyond_start(start: str, own: Mapping[str, Tensor], module: nn.Module, scale: float) -> dict[str, Tensor]:
    """`down` (r d_in) and `up` (d_out r) of a layer as the plain (2r d_in) and (d_out 2r); the rest as it is.

    In fp32 whatever the file has: the start is most of the weight, and its rounding would be larger than the change.
    """
    down, up = own["down"].float(), own["up"].float()
    first_down, first_up = _start(start, module, down.shape[0], scale)
    return {**own, "down": torch.cat((down, first_down.to(down))), "up": torch.cat((up, -first_up.to(up)), dim=1)}


def _start(start: str, module: nn.Module, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """The factors (r d_in) and (d_out r) that PEFT starts a layer from; either's own signs cancel in their product."""
    weight: Any = module.weight
    if isinstance(module, nn.Embedding) or (start == "olora" and isinstance(module, Conv1D)):
        raise UserError(f'init_lora_weights = "{start}" is not for a {type(module).__name__}, in PEFT either')
    whole = (weight.T if isinstance(module, Conv1D) else weight).detach().float()
    if start == "olora":
        q, r = torch.linalg.qr(whole)
        return r[:rank], q[:, :rank]
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root
