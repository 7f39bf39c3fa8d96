"""Rows with as many masks as each label's word has tokens, or with the word behind them."""

from collections.abc import Sequence

import torch

from graftlm.recipes._filled import filled_scores
from graftlm.tasks import Features


def test_each_label_has_masks_of_its_own_number_and_segments_stay() -> None:
    asked: list[list[tuple[list[int], list[int] | None, list[int] | None]]] = []

    def logits_of(rows: Sequence[Features]) -> torch.Tensor:
        asked.append([(row.ids, row.types, row.places) for row in rows])
        return torch.zeros(len(rows), 2, 10)

    row = Features([1, 5, 9, 9, 6], [0, 0, 0, 0, 1], [2, 3])
    found = filled_scores(logits_of, [row], [(7, 8), (4,)], "left-to-right", "masked", 8)
    assert asked[0] == [([1, 5, 9, 9, 6], [0, 0, 0, 0, 1], [2, 3]), ([1, 5, 9, 6], [0, 0, 0, 1], [2])]
    assert asked[1] == [([1, 5, 7, 9, 6], [0, 0, 0, 0, 1], [2, 3])]
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0]]) * torch.tensor(0.1).log())


def test_a_causal_model_reads_the_word_behind_the_text_in_one_pass() -> None:
    asked: list[Sequence[Features]] = []

    def logits_of(rows: Sequence[Features]) -> torch.Tensor:
        asked.append(rows)
        return torch.zeros(len(rows), 2, 10)

    found = filled_scores(logits_of, [Features([1, 5], None, [1])], [(7, 8), (4,)], "full", "causal", 8)
    assert [(row.ids, row.places) for row in asked[0]] == [([1, 5, 7], [1, 2]), ([1, 5], [1])]
    assert len(asked) == 1
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0]]) * torch.tensor(0.1).log())
