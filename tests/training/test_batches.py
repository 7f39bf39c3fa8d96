"""Batches: every example once an epoch, little padding, by examples or by tokens, and going on where it was left."""

from itertools import islice

import numpy as np
import pytest

from graftlm.training._batches import batches_of, endless, epoch_batches

# as short texts are: 24 tokens on average, the longest some 70
LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.55, 5000), 4, 70).astype(int).tolist()


@pytest.mark.parametrize("tokens", [None, 512, 60])
def test_an_epoch_has_every_example_once(tokens: int | None) -> None:
    batches = epoch_batches(LENGTHS, 32, 1, 0, tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert batches == epoch_batches(LENGTHS, 32, 1, 0, tokens)
    assert batches != epoch_batches(LENGTHS, 32, 1, 1, tokens)
    if tokens is None:
        assert max(map(len, batches)) == 32
    else:
        assert all(len(own) == 1 or len(own) * max(LENGTHS[i] for i in own) <= tokens for own in batches)


@pytest.mark.parametrize("tokens", [None, 1024])
def test_less_than_8_percent_is_padding(tokens: int | None) -> None:
    batches = epoch_batches(LENGTHS, 32, 1, 0, tokens)
    held = sum(len(batch) * max(LENGTHS[index] for index in batch) for batch in batches)
    assert sum(LENGTHS) / held > 0.92


@pytest.mark.parametrize("tokens", [None, 512])
def test_skipped_batches_are_those_that_came_before(tokens: int | None) -> None:
    lengths, count = LENGTHS[:200], batches_of(LENGTHS[:200], 16, tokens)
    whole = list(islice(endless(lengths, 16, 3, tokens=tokens), 3 * count))
    for skip in (0, 1, count, 2 * count + 1):
        assert list(islice(endless(lengths, 16, 3, skip, tokens), 3 * count - skip)) == whole[skip:]
