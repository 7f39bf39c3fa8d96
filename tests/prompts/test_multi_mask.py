"""Words of several tokens at masks: PET's three rules, the whole log-probability, and the loss of one pass."""

from collections.abc import Sequence

import pytest
import torch

from graftlm.prompts import _multi_mask as multi
from graftlm.prompts._multi_mask import Slots

MASK = 0
# a model of two places over a vocabulary of four: what each place foresees, by what stands in the other one
ALONE = {0: [0.1, 0.4, 0.3, 0.2], 1: [0.1, 0.1, 0.2, 0.6]}
GIVEN = {(0, 3): [0.1, 0.8, 0.05, 0.05], (1, 1): [0.1, 0.1, 0.1, 0.7]}


def foresees(rows: Sequence[Slots]) -> torch.Tensor:
    out = torch.zeros(len(rows), 2, 4)
    for index, row in enumerate(rows):
        for number, place in enumerate(row.places):
            other = row.ids[1 - place] if len(row.ids) > 1 else MASK
            out[index, number] = torch.tensor(GIVEN.get((place, other), ALONE[place])).log()
    return out


TWO = Slots((MASK, MASK), (0, 1), (1, 3))
ONE = Slots((MASK,), (0,), (2,))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("max-first", 0.6 * 0.8), ("left-to-right", 0.4 * 0.7), ("parallel", 0.4 * 0.6), ("full", 0.8 * 0.7)],
)
def test_each_rule_multiplies_what_it_has_foreseen(rule: multi.Rule, expected: float) -> None:
    found = multi.slot_scores(foresees, [TWO, ONE], rule, 8)
    assert found.exp().tolist() == pytest.approx([expected, 0.3], rel=1e-5)
    assert multi.slot_scores(foresees, [ONE], rule, 8).exp().tolist() == pytest.approx([0.3], rel=1e-5)


@pytest.mark.parametrize("rule", ["max-first", "left-to-right", "parallel", "full"])
def test_no_more_rows_are_asked_at_once_than_wanted_and_that_changes_nothing(rule: multi.Rule) -> None:
    asked: list[int] = []

    def counted(rows: Sequence[Slots]) -> torch.Tensor:
        asked.append(len(rows))
        return foresees(rows)

    rows = [TWO, ONE, TWO, ONE, TWO]
    assert torch.equal(multi.slot_scores(counted, rows, rule, 2), multi.slot_scores(foresees, rows, rule, 99))
    assert max(asked) == 2


def test_one_pass_scores_words_of_unequal_lengths() -> None:
    logits = torch.tensor([[ALONE[0], ALONE[1]]]).log() + torch.tensor([[[5.0], [-2.0]]])
    found = multi.choice_scores(logits, multi.padded([(1, 3), (2,)]))
    assert found.exp()[0].tolist() == pytest.approx([0.24, 0.3], rel=1e-5)


def test_the_loss_is_a_margin_of_one_to_each_wrong_label() -> None:
    found = multi.margin_loss(torch.tensor([[-1.0, -1.5, -4.0], [-3.0, -1.0, -2.5]]), torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([0.5, 3.0 + 1.5])
