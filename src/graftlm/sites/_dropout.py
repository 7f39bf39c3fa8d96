"""Dropout whose mask is a hash of (run seed, step, site, example, token, feature).

Neighbours in the batch, padding, gradient checkpointing and resuming leave it as it is.
"""

import zlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2^64 / φ, as a signed 64-bit number
_BITS = 24


@torch.compiler.assume_constant_result  # torch.compile cannot look into zlib
def salt(text: str) -> int:
    """A site's number."""
    return zlib.crc32(text.encode())


def mix(x: Tensor) -> Tensor:
    """A 64-bit finaliser (splitmix64's shape): every input bit moves every low output bit."""
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31)


def row_keys(seed: int, step: int, examples: Tensor) -> Tensor:
    """The key of each example (b) of one run at one step."""
    return mix(mix(examples.to(torch.int64) + seed * _GOLDEN % 2**63) + step)


def keyed_dropout(h: Tensor, keys: Tensor, positions: Tensor, site: int, rate: Tensor) -> Tensor:
    """h (b t d) with features dropped at `rate` (b) and the rest scaled by 1 / (1 − rate).

    keys (b) from `row_keys`; positions (b t) count real tokens, so that padding does not move the mask.
    """
    token = mix((keys + site * 2654435761)[:, None] + positions * _GOLDEN)  # b t
    bits = mix(token[..., None] + torch.arange(h.shape[-1], device=h.device) * _GOLDEN)  # b t d
    uniform = (bits & (2**_BITS - 1)).to(torch.float32) / 2**_BITS
    rate = rate.to(torch.float32)[:, None, None]
    return h * torch.where(uniform >= rate, 1 / (1 - rate), 0.0).to(h.dtype)
