"""What `datasets` saves: Arrow files, folders of one dataset, folders of splits."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
ROWS = Dataset.from_dict({"text": [*"abcdefgh"], "label": [1, 0] * 4}, features=FEATURES)


def test_saved_splits_are_read_with_their_class_names(tmp_path: Path) -> None:
    DatasetDict({"train": ROWS, "dev": ROWS.select([0])}).save_to_disk(tmp_path / "saved")
    data = load(DataConfig(path=str(tmp_path / "saved")), "classification")
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 8, "validation": 1}
    assert data.labels == ("no", "yes")
    with pytest.raises(UserError, match=r'no split "test" in .*saved; there is validation, train|train, validation'):
        load(DataConfig(path=str(tmp_path / "saved")), "classification", ("test",))


def test_one_saved_dataset_is_one_split_and_its_file_is_cut(tmp_path: Path) -> None:
    ROWS.save_to_disk(tmp_path / "saved")
    assert len(load(DataConfig(path=str(tmp_path / "saved")), "classification").splits["train"]) == 8
    cut, file = {"train": 0.5, "test": 0.5}, tmp_path / "saved" / "data-00000-of-00001.arrow"
    found = load(DataConfig(path=str(file), split=cut), "classification")
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 4, "test": 4}
    with pytest.raises(UserError, match=f"saved is a folder; name {file}"):
        load(DataConfig(path=str(tmp_path / "saved"), split=cut), "classification")


def test_a_dataset_in_several_files_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    ROWS.save_to_disk(tmp_path / "saved", num_shards=2)
    with pytest.raises(UserError, match="holds one dataset in 2 Arrow files"):
        load(DataConfig(path=str(tmp_path / "saved")), "classification")
    (tmp_path / "a.arrow").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable Arrow file"):
        load(DataConfig(path=str(tmp_path / "a.arrow")), "classification")
