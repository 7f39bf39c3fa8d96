from collections import Counter

import numpy as np
import pytest

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load


def drawn(path, task="classification", **options):
    return load(DataConfig(path=path, **options), task, ("train", "validation"))


def test_real_few_shot_sets_are_balanced_disjoint_and_the_same_for_the_same_seed(shared):
    first = drawn(shared("sst5"), shots=16, shots_seed=13)
    again = drawn(shared("sst5"), shots=16, shots_seed=13)
    other = drawn(shared("sst5"), shots=16, shots_seed=21)
    for split in ("train", "validation"):
        assert Counter(row.label for row in first.splits[split]) == dict.fromkeys(range(5), 16)
    texts = {split: {row.text for row in rows} for split, rows in first.splits.items()}
    assert not texts["train"] & texts["validation"]
    assert first.splits == again.splits
    assert first.splits != other.splits


def test_the_draw_is_lm_bff_s(folder):
    """LM-BFF's generate_k_shot_data.py: np.random.seed, one np.random.shuffle of all lines, then slices by label."""
    rows = [{"text": str(n), "label": n % 3} for n in range(90)]
    lines = list(rows)
    random = np.random.RandomState(42)
    random.shuffle(lines)
    data = drawn(folder(train=rows), shots=4, shots_seed=42)
    for split, start in (("train", 0), ("validation", 4)):
        expected = [
            row["text"]
            for label in range(3)
            for row in [line for line in lines if line["label"] == label][start : start + 4]
        ]
        assert [row.text for row in data.splits[split]] == expected


def test_a_label_with_too_few_examples_is_named_with_its_count(folder):
    rows = [{"text": str(n), "label": "rare" if n < 5 else "common"} for n in range(40)]
    with pytest.raises(UserError) as error:
        drawn(folder(train=rows), shots=4)
    assert '5 of "rare"; data.shots_rare = "half" takes half of these for each' in str(error.value)


def test_half_of_a_rare_label_goes_to_each_split_when_asked(folder):
    rows = [{"text": str(n), "label": "rare" if n < 5 else "common"} for n in range(40)]
    data = drawn(folder(train=rows), shots=4, shots_rare="half")
    for split in data.splits.values():
        assert Counter(data.labels[row.label or 0] for row in split) == {"rare": 2, "common": 4}
    texts = [row.text for split in data.splits.values() for row in split]
    assert len(set(texts)) == 12
    assert any('2 and not 4 of "rare"' in note for note in data.notes)


def test_a_label_with_one_example_cannot_be_halved(folder):
    rows = [{"text": str(n), "label": "rare" if n < 1 else "common"} for n in range(40)]
    with pytest.raises(UserError, match='1 of "rare"'):
        drawn(folder(train=rows), shots=4, shots_rare="half")


def test_scores_are_balanced_over_the_halves_of_their_range(folder):
    rows = [{"text": str(n), "score": n / 20} for n in range(101)]
    data = drawn(folder(train=rows), task="regression", shots=8)
    for rows in data.splits.values():
        assert Counter((row.score or 0) >= 2.5 for row in rows) == {True: 8, False: 8}


def test_the_test_split_stays_whole_and_the_folder_s_validation_is_left_alone(folder):
    rows = [{"text": str(n), "label": n % 2} for n in range(40)]
    path = folder(train=rows, validation=[{"text": "never", "label": 0}], test=rows)
    data = load(DataConfig(path=path, shots=2), "classification")
    assert len(data.splits["test"]) == 40
    assert all(row.text != "never" for row in data.splits["validation"])
