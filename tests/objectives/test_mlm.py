"""The masked language modelling objective: which tokens are chosen, what becomes of them, and its loss."""

from collections import Counter

import pytest
import torch

from graftlm.objectives import mlm

SPECIAL, MASK, VOCABULARY = (0, 1, 2), 3, 1000


def rows(count: int, length: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [[1, *torch.randint(10, VOCABULARY, (length - 2,), generator=generator).tolist(), 2] for _ in range(count)]


@pytest.mark.parametrize(("length", "chosen"), [(2, 1), (7, 1), (20, 3), (128, 19)])
def test_fifteen_percent_of_a_row_are_chosen_and_one_at_least(length: int, chosen: int) -> None:
    assert mlm.count(length) == chosen


def test_eight_in_ten_become_masks_one_another_word_and_one_stays() -> None:
    fates, total = Counter[str](), 0
    for key, ids in enumerate(rows(800)):
        found = mlm.masked(ids, SPECIAL, MASK, VOCABULARY, key)
        total += len(ids)
        for place, word in zip(found.places, found.words, strict=True):
            assert word == ids[place]
            shown = found.ids[place]
            fates["mask" if shown == MASK else "kept" if shown == word else "other"] += 1
    chosen = sum(fates.values())
    assert chosen / total == pytest.approx(0.15, abs=0.01)
    assert [fates[name] / chosen for name in ("mask", "other", "kept")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_special_tokens_are_never_chosen_and_other_places_have_no_goal() -> None:
    for key, ids in enumerate(rows(50, 9)):
        found = mlm.masked(ids, SPECIAL, MASK, VOCABULARY, key)
        assert found.ids[0] == 1
        assert found.ids[-1] == 2
        assert [goal for goal in found.goals if goal != -100] == found.words
        assert all(found.ids[place] == ids[place] for place, goal in enumerate(found.goals) if goal == -100)
    assert mlm.masked([1, 2], SPECIAL, MASK, VOCABULARY, 5) == mlm.Masked([1, 2], [], [])


@pytest.mark.parametrize("virtual", [0, 20, 100])
def test_virtual_tokens_are_neither_chosen_nor_counted(virtual: int) -> None:
    ids = [1, *range(VOCABULARY, VOCABULARY + virtual), *range(10, 22), MASK, 2]
    found = mlm.masked(ids, (*SPECIAL, MASK), MASK, VOCABULARY, 7)
    assert len(found.places) == mlm.count(15) == 2
    assert all(10 <= word < 22 for word in found.words)


def test_the_same_key_draws_the_same_masks_and_another_key_others() -> None:
    ids = rows(1, 60)[0]
    first = mlm.masked(ids, SPECIAL, MASK, VOCABULARY, 7)
    assert mlm.masked(ids, SPECIAL, MASK, VOCABULARY, 7) == first
    assert mlm.masked(ids, SPECIAL, MASK, VOCABULARY, 8) != first
    assert mlm.masked(ids, SPECIAL, MASK, VOCABULARY, -7).places


def test_the_loss_is_the_mean_over_the_chosen_places() -> None:
    logits = torch.zeros(2, 2, 4, dtype=torch.float64)
    logits[0, 0, 1] = torch.log(torch.tensor(3.0))  # p = 3/6
    words = torch.tensor([[1, 0], [2, -100]])
    found = mlm.loss(logits, words)
    log = torch.log(torch.tensor([2.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([log.mean(), log[1]]))


def test_beside_a_main_loss_it_has_the_weight_that_is_its_share() -> None:
    main, auxiliary = torch.tensor(0.078890, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    assert float(mlm.beside(main, auxiliary, 1e-4)) == pytest.approx(0.079082, abs=1e-6)
