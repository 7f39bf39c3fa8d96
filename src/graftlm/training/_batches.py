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
    lengths: Sequence[int], size: int, seed: int, skip: int = 0, tokens: int | None = None, accumulation: int = 1
) -> Iterator[list[list[int]]]:
    """The batches of each step, epoch after epoch, without the first `skip` steps.

    A step has `accumulation` batches of one epoch, and an epoch's last step those that are left.
    """
    epoch = 0
    if tokens is None:
        epoch, skip = divmod(skip, steps_an_epoch(lengths, size, None, accumulation))
    while True:
        batches = epoch_batches(lengths, size, seed, epoch, tokens)
        steps = [batches[place : place + accumulation] for place in range(0, len(batches), accumulation)]
        yield from steps[skip:]
        epoch, skip = epoch + 1, max(0, skip - len(steps))


def steps_an_epoch(lengths: Sequence[int], size: int, tokens: int | None, accumulation: int = 1) -> int:
    """How many steps an epoch has; with `tokens` the first epoch, and others about as many."""
    batches = len(epoch_batches(lengths, size, 0, 0, tokens)) if tokens else math.ceil(len(lengths) / size)
    return math.ceil(batches / accumulation)


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every example once, longest first, for evaluation: the largest batch comes first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[place : place + size] for place in range(0, len(order), size)]
