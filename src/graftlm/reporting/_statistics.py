"""Which differences between settings are real: resampled test examples, and seeds, corrected for all pairs.

A setting's score is the mean over its seeds of a metric that is a fraction of two sums over examples. A replicate draws
test examples anew, the same for all settings and seeds, and moves each setting's mean by a t-distributed error of its
seeds, whose variance is the larger of the setting's own and the mean over the settings (two or three seeds say little
about their own), with the degrees of freedom of all. Differences between any two settings are judged together by the
distribution of their largest studentised error, so that of all claims on the data one is wrong in 5 % at most.
Of a setting whose error nothing shows the size of, no seed beside another and no fraction, no claim is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

DRAWS, LEVEL, CHUNK = 10_000, 0.95, 1 << 22
FEWEST = 6  # examples: with fewer, chance alone would have all of them agree in more than 5 % (a sign test)
Array = np.ndarray


@dataclass(frozen=True)
class Scores:
    """A setting's `values` (seeds), and each example's share of the two sides of the fraction (seeds examples 2).

    `shares` is None where the metric is no such fraction; its uncertainty is then that over the seeds alone, and where
    those do not differ, unknown.
    """

    values: Array
    shares: Array | None = None


@dataclass(frozen=True)
class Difference:
    """How far `other` is below the best: the difference with its simultaneous interval and adjusted p-value."""

    other: str
    value: float
    low: float
    high: float
    p: float

    @property
    def real(self) -> bool:
        return self.low > 0


@dataclass(frozen=True)
class Verdict:
    """The best setting, each setting's mean and own interval, and the differences to the best, nearest first.

    `pairs`: how many comparisons the intervals of the differences allow for.
    """

    best: str
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    differences: tuple[Difference, ...]
    pairs: int
    seeds: int
    examples: int


def judge(scores: Mapping[str, Scores], draws: int = DRAWS, seed: int = 0, *, lower: bool = False) -> Verdict:
    """The verdict on settings that were tested on the same examples; `lower`: less of the metric is better."""
    names = list(scores)
    means = np.array([scores[name].values.mean() for name in names])
    errors = replicates(scores, draws, np.random.default_rng(seed))
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(errors, [tail, 100 - tail], axis=0)
    unknown = np.array([_few(own) for own in scores.values()]) & ~errors.any(0)
    low[unknown], high[unknown] = -np.inf, np.inf
    best = int(means.argmin() if lower else means.argmax())
    widths, largest = _largest(errors)
    widths[unknown], widths[:, unknown] = np.inf, np.inf
    limit = float(np.quantile(largest, LEVEL)) if len(names) > 1 else 0.0
    found = [_difference(names, means, widths, largest, limit, best, place) for place in range(len(names))]
    others = [difference for place, difference in enumerate(found) if place != best]
    sizes = [own.shares.shape[1] for own in scores.values() if own.shares is not None]
    return Verdict(
        names[best],
        dict(zip(names, means.tolist(), strict=True)),
        {name: _interval(scores[name], means[i] - high[i], means[i] - low[i]) for i, name in enumerate(names)},
        tuple(sorted(others, key=lambda difference: difference.value)),
        len(names) * (len(names) - 1) // 2,
        max(len(own.values) for own in scores.values()),
        max(sizes, default=0),
    )


def _few(own: Scores) -> bool:
    """Whether the examples say nothing of a setting's error."""
    return own.shares is None or own.shares.shape[1] < FEWEST


def _interval(own: Scores, low: float, high: float) -> tuple[float, float]:
    """The interval within what a fraction can be: from 0 where no share is negative, to 1 where none is above it."""
    if own.shares is None:
        return float(low), float(high)
    above, below = own.shares[..., 0], own.shares[..., 1]
    least, most = 0.0 if (above >= 0).all() else -np.inf, 1.0 if (above <= below).all() else np.inf
    return max(least, float(low)), min(most, float(high))


def replicates(scores: Mapping[str, Scores], draws: int, random: np.random.Generator) -> Array:
    """Errors of the settings' means (draws settings)."""
    errors = np.zeros((draws, len(scores)))
    size = next((own.shares.shape[1] for own in scores.values() if own.shares is not None), 0)
    step = max(1, CHUNK // max(1, size))
    for start in range(0, draws if size else 0, step):
        count = min(step, draws - start)
        weights = random.multinomial(size, np.full(size, 1 / size), count).astype(float)
        for place, own in enumerate(scores.values()):
            if own.shares is not None:
                errors[start : start + count, place] = _fractions(weights, own.shares) - own.values.mean()
    return errors + _seeds(scores, draws, random)


def _fractions(weights: Array, shares: Array) -> Array:
    """weights (draws examples), shares (seeds examples 2) -> the mean over seeds of the fraction (draws)."""
    above, below = weights @ shares[..., 0].T, weights @ shares[..., 1].T
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0).mean(1)


def _seeds(scores: Mapping[str, Scores], draws: int, random: np.random.Generator) -> Array:
    counts = np.array([len(own.values) for own in scores.values()])
    freedom = int((counts - 1).sum())
    if freedom == 0:
        return np.zeros((draws, len(counts)))
    own = np.array([_variance(each) for each in scores.values()])
    pooled = float(((counts - 1) * own).sum() / freedom)
    return random.standard_t(freedom, (draws, len(counts))) * np.sqrt(np.maximum(own, pooled) / counts)


def _variance(own: Scores) -> float:
    """The variance of the seeds' values beyond what the same seeds would show on few examples by chance."""
    if len(own.values) < 2:
        return 0.0
    chance = 0.0
    if own.shares is not None:
        above, below = own.shares[..., 0], own.shares[..., 1]
        typical = below.mean(1, keepdims=True)
        around = np.divide(above - own.values[:, None] * below, typical, out=np.zeros_like(above), where=typical > 0)
        chance = around.var(0, ddof=1).mean() / around.shape[1]
    return max(0.0, float(own.values.var(ddof=1)) - chance)


def _largest(errors: Array) -> tuple[Array, Array]:
    """The width of each pair's error (settings settings), and each draw's largest error in widths (draws)."""
    count = errors.shape[1]
    widths, largest = np.zeros((count, count)), np.zeros(len(errors))
    for one, other in combinations(range(count), 2):
        error = errors[:, one] - errors[:, other]
        low, high = np.percentile(error, [15.87, 84.13])
        widths[one, other] = widths[other, one] = width = (high - low) / 2
        if width > 0:
            np.maximum(largest, np.abs(error) / width, out=largest)
    return widths, largest


def _difference(
    names: list[str], means: Array, widths: Array, largest: Array, limit: float, best: int, place: int
) -> Difference:
    value, width = float(abs(means[best] - means[place])), float(widths[best, place])
    beyond = int((largest >= value / width).sum()) if width > 0 else len(largest) * (value == 0)
    reach = limit * width if np.isfinite(width) else np.inf
    return Difference(names[place], value, value - reach, value + reach, (beyond + 1) / (len(largest) + 1))
