"""How a base writes texts: under what its own generation config asks of them, and with draws that are a row's own."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ASKED = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""What a model's generation config says of its tokens, and no option of a task does."""


def asked_by(base: Any) -> dict[str, Any]:
    """What of `ASKED` a model's own generation config sets."""
    usual = type(base.generation_config)()
    found = {name: getattr(base.generation_config, name, None) for name in ASKED}
    return {name: value for name, value in found.items() if value not in (None, getattr(usual, name, None))}


def seeds_of(rows: Sequence[Sequence[int]], seed: int, best: int) -> list[list[int]]:
    """For each row of ids the seeds of its `best` draws, the same in whichever order and company the row stands.

    Rows with the same ids have seeds of their own.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    found: list[list[int]] = []
    for ids in map(tuple, rows):
        found.append([zlib.crc32(repr((seed, ids, seen[ids], place)).encode()) for place in range(best)])
        seen[ids] += 1
    return found


class Draws:
    """Makes of greedy search a draw for each row of a batch: the largest of log p + Gumbel noise is one of p."""

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (rows v) -> (rows v)."""
        size = scores.shape[1:]
        drawn = [torch.empty(size, device=self._device).exponential_(generator=one) for one in self._generators]
        return scores.float() - torch.stack(drawn).clamp(min=torch.finfo(torch.float32).tiny).log()
