"""The order of the examples: shuffled by seed and epoch, bucketed by length so that little is padding."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

WINDOW = 32  # batches that are sorted by length together: enough that little is padded, few enough to stay random


def epoch_batches(
    lengths: Sequence[int], size: int, seed: int, epoch: int, tokens: int | None = None
) -> list[list[int]]:
    """Every example once, in batches of about equal length; the same for the same seed and epoch.

    A batch has `size` examples, or with `tokens` as many as fit into so many, padding included, and one at least.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = size * WINDOW
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=lambda index: lengths[index])
        batches += _by_tokens(part, lengths, tokens) if tokens else _by_count(part, size)
    return [batches[place] for place in random.permutation(len(batches))]


def _by_count(part: Sequence[int], size: int) -> list[list[int]]:
    return [list(part[place : place + size]) for place in range(0, len(part), size)]


def _by_tokens(part: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Examples in the order of their lengths, shortest first, cut into batches of at most so many tokens."""
    batches: list[list[int]] = []
    for index in part:
        if not batches or (len(batches[-1]) + 1) * lengths[index] > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def endless(
    lengths: Sequence[int], size: int, seed: int, skip: int = 0, tokens: int | None = None
) -> Iterator[list[int]]:
    """Epoch after epoch, without the first `skip` batches."""
    epoch = 0
    if tokens is None:
        epoch, skip = divmod(skip, math.ceil(len(lengths) / size))
    while True:
        batches = epoch_batches(lengths, size, seed, epoch, tokens)
        yield from batches[skip:]
        epoch, skip = epoch + 1, max(0, skip - len(batches))


def batches_of(lengths: Sequence[int], size: int, tokens: int | None) -> int:
    """How many batches an epoch has; with `tokens` the first epoch, and others about as many."""
    return len(epoch_batches(lengths, size, 0, 0, tokens)) if tokens else math.ceil(len(lengths) / size)


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every example once, longest first, for evaluation: the largest batch comes first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[place : place + size] for place in range(0, len(order), size)]
