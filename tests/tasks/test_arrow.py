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


@pytest.mark.parametrize("name", ["saved", "saved/data-00000-of-00001.arrow"])
def test_one_saved_dataset_is_cut_as_a_file_is(tmp_path: Path, name: str) -> None:
    ROWS.save_to_disk(tmp_path / "saved")
    config = DataConfig(path=str(tmp_path / name), split={"train": 0.5, "test": 0.5})
    assert {split: len(own) for split, own in load(config, "classification").splits.items()} == {"train": 4, "test": 4}


def test_a_dataset_in_several_files_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    ROWS.save_to_disk(tmp_path / "saved", num_shards=2)
    with pytest.raises(UserError, match="holds one dataset in 2 Arrow files"):
        load(DataConfig(path=str(tmp_path / "saved")), "classification")
    (tmp_path / "a.arrow").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable Arrow file"):
        load(DataConfig(path=str(tmp_path / "a.arrow")), "classification")
