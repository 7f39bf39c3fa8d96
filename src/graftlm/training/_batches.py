"""The order of the examples: shuffled by seed and epoch, bucketed by length so that little is padding."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

WINDOW = 32  # batches that are sorted by length together: enough that little is padded, few enough to stay random


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of about equal length; the same for the same seed and epoch."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = size * WINDOW
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=lambda index: lengths[index])
        batches += [part[place : place + size] for place in range(0, len(part), size)]
    return [batches[place] for place in random.permutation(len(batches))]


def endless(lengths: Sequence[int], size: int, seed: int, skip: int = 0) -> Iterator[list[int]]:
    """Epoch after epoch, without the first `skip` batches."""
    epoch, skip = divmod(skip, math.ceil(len(lengths) / size))
    while True:
        yield from epoch_batches(lengths, size, seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every example once, longest first, for evaluation: the largest batch comes first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[place : place + size] for place in range(0, len(order), size)]
