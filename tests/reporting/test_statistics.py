"""The statistics on cases whose truth is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from graftlm.reporting._statistics import Scores, judge


def _drawn(random: np.random.Generator, means: Sequence[float], seeds: int, examples: int, spread: float) -> dict:
    """Accuracies of settings whose true means are known: seeds differ by `spread`, and examples are hard or easy."""
    ease = random.normal(0, 0.2, examples)
    found = {}
    for place, mean in enumerate(means):
        chance = np.clip(mean + random.normal(0, spread, (seeds, 1)) + ease, 0, 1)
        right = (random.random((seeds, examples)) < chance).astype(float)
        found[str(place)] = Scores(right.mean(1), np.stack([right, np.ones_like(right)], -1))
    return found


@pytest.mark.parametrize(("settings", "seeds", "spread"), [(4, 3, 0.03), (6, 3, 0.0), (3, 2, 0.1)])
def test_of_equal_settings_one_is_called_better_in_no_more_than_5_percent(
    settings: int, seeds: int, spread: float
) -> None:
    random, worlds = np.random.default_rng(0), 200
    false, covered = 0, 0.0
    for world in range(worlds):
        found = judge(_drawn(random, [0.5] * settings, seeds, 150, spread), draws=300, seed=world)
        false += any(difference.real for difference in found.differences)
        covered += float(np.mean([low <= 0.5 <= high for low, high in found.intervals.values()]))
    assert false / worlds <= 0.08  # 0.05 and two of its standard errors
    assert 0.92 <= covered / worlds <= 0.995


def test_intervals_of_differences_hold_the_true_ones_together() -> None:
    random, worlds, means = np.random.default_rng(1), 200, [0.45, 0.5, 0.6]
    held = 0
    for world in range(worlds):
        found = judge(_drawn(random, means, 3, 150, 0.02), draws=300, seed=world)
        best = means[int(found.best)]
        held += all(
            difference.low <= best - means[int(difference.other)] <= difference.high for difference in found.differences
        )
    assert held / worlds >= 0.92


def test_a_large_difference_is_real_and_the_same_answers_are_none() -> None:
    scores = _drawn(np.random.default_rng(2), [0.4, 0.75], 3, 300, 0.01)
    found = judge(scores)
    assert (found.best, found.differences[0].real, found.differences[0].p < 0.001) == ("1", True, True)
    found = judge({"a": scores["0"], "b": scores["0"]})
    assert (found.differences[0].value, found.differences[0].real) == (0, False)


def test_fractions_of_sums_are_resampled_as_such() -> None:
    """F1 over two sums: the interval of a resampled fraction, against the delta method's."""
    random = np.random.default_rng(3)
    below = random.integers(1, 5, (1, 400)).astype(float)
    above = random.binomial(below.astype(int), 0.6).astype(float)
    value = above.sum() / below.sum()
    found = judge({"a": Scores(np.array([value]), np.stack([above, below], -1))})
    error = np.std(above - value * below) / below.mean() / np.sqrt(400)
    low, high = found.intervals["a"]
    assert (value - low, high - value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.06)


def test_no_claim_is_made_where_nothing_shows_the_size_of_the_error() -> None:
    """One seed of a metric that is no mean over examples, seeds that are all the same, and too few examples."""
    few = {name: Scores(np.array([hit]), np.array([[[hit, 1.0]] * 3])) for name, hit in (("a", 0.0), ("b", 1.0))}
    same = {name: Scores(np.full(2, value)) for name, value in (("a", 0.5), ("b", 0.7))}
    one = {name: Scores(np.array([value])) for name, value in (("a", 0.5), ("b", 0.7))}
    for scores in (one, same, few):
        found = judge(scores, draws=300)
        assert (found.best, found.differences[0].real, found.differences[0].p) == ("b", False, 1.0)
        assert found.differences[0].low == -np.inf


def test_all_right_against_all_wrong_is_a_difference_where_there_are_examples() -> None:
    shares = {name: np.array([[[hit, 1.0]] * 40]) for name, hit in (("a", 0.0), ("b", 1.0))}
    found = judge({name: Scores(own[..., 0].mean(1), own) for name, own in shares.items()}, draws=300)
    assert found.differences[0].real


def test_no_shares_still_give_a_verdict_from_the_seeds() -> None:
    some = judge({"a": Scores(np.array([0.5, 0.6])), "b": Scores(np.array([0.7, 0.9]))})
    assert some.differences[0].low < 0 < some.differences[0].value


def test_where_less_is_better_the_verdict_is_that_of_the_turned_numbers() -> None:
    random = np.random.default_rng(0)
    drawn = {name: random.normal(mean, 0.02, 4) for name, mean in (("a", 0.3), ("b", 0.5), ("c", 0.4))}
    found = judge({name: Scores(values) for name, values in drawn.items()}, lower=True)
    turned = judge({name: Scores(-values) for name, values in drawn.items()})
    assert found.best == turned.best == "a"
    assert [d.other for d in found.differences] == [d.other for d in turned.differences] == ["c", "b"]
    for ours, theirs in zip(found.differences, turned.differences, strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_interval_of_a_mean_error_may_go_beyond_one() -> None:
    above = np.random.default_rng(0).uniform(2, 4, (2, 100))
    found = judge({"a": Scores(above.mean(1), np.stack([above, np.ones_like(above)], -1))})
    low, high = found.intervals["a"]
    assert 2 < low < above.mean() < high < 4
