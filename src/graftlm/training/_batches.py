"""The order of the examples: shuffled by seed and epoch, bucketed by length so that little is padding."""

import math
from bisect import bisect_right
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
        epoch, skip = divmod(skip, Epochs(lengths, size, seed, None, accumulation).end(1))
    while True:
        batches = epoch_batches(lengths, size, seed, epoch, tokens)
        steps = [batches[place : place + accumulation] for place in range(0, len(batches), accumulation)]
        yield from steps[skip:]
        epoch, skip = epoch + 1, max(0, skip - len(steps))


class Epochs:
    """Where the epochs of `endless` end, in steps; with `tokens` they differ, and are counted as they are asked for."""

    def __init__(self, lengths: Sequence[int], size: int, seed: int, tokens: int | None, accumulation: int = 1):
        self._given, self._accumulation, self._ends = (lengths, size, seed, tokens), accumulation, [0]

    def end(self, count: int) -> int:
        """How many steps the first epochs have."""
        lengths, size, seed, tokens = self._given
        if tokens is None:
            return count * max(1, math.ceil(math.ceil(len(lengths) / size) / self._accumulation))
        while len(self._ends) <= count:
            batches = epoch_batches(lengths, size, seed, len(self._ends) - 1, tokens)
            self._ends.append(self._ends[-1] + max(1, math.ceil(len(batches) / self._accumulation)))
        return self._ends[count]

    def at(self, step: int) -> float:
        """How many epochs so many steps are."""
        if self._given[-1] is None:
            return step / self.end(1)
        while self._ends[-1] <= step:
            self.end(len(self._ends))
        whole = bisect_right(self._ends, step) - 1
        first, last = self._ends[whole : whole + 2]
        return whole + (step - first) / (last - first)


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every example once, longest first, for evaluation: the largest batch comes first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[place : place + size] for place in range(0, len(order), size)]
