"""A `datasets` name as data, from a real cache: splits, columns and class names as the dataset has them."""

from pathlib import Path

import datasets
import huggingface_hub
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.packaged_modules.parquet.parquet import Parquet

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import TaskData, load

NAMES = ["negative", "about even", "positive"]
SIZES = {"train": 9, "dev": 4, "test": 3}


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """org/words in the cache of `datasets`, in one configuration; its test rows have no labels, which is -1."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    _cache(tmp_path, "default")
    return "org/words"


def _cache(tmp_path: Path, configuration: str) -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=NAMES), "idx": Value("int32")})
    files = {}
    for split, size in SIZES.items():
        labels = [-1 if split == "test" else (2 * row) % 3 for row in range(size)]
        rows = {"sentence": [f"{split} {row}" for row in range(size)], "label": labels, "idx": list(range(size))}
        files[split] = [str(tmp_path / f"{split}.parquet")]
        Dataset.from_dict(rows, features=features).to_parquet(files[split][0])
    made = Parquet(
        cache_dir=str(tmp_path / "made"), dataset_name="words", config_name=configuration, data_files=files, hash="0"
    )
    made.download_and_prepare()
    there = tmp_path / "cache/org___words"
    there.mkdir(parents=True, exist_ok=True)
    Path(made.cache_dir).parent.parent.rename(there / configuration)


def _load(name: str, *splits: str, task: str = "classification", **options: object) -> TaskData:
    return load(DataConfig.parse({"path": name, **options}), task, splits or None)


def _refusal(name: str, *splits: str) -> str:
    with pytest.raises(UserError) as error:
        _load(name, *splits)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_splits_columns_and_class_names_are_the_datasets_own(cached: str) -> None:
    found = _load(cached, "train", "validation")
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 9, "validation": 4}
    assert found.labels == tuple(NAMES)  # in the order of their numbers, not of the alphabet or the rows
    first, second = found.splits["train"][:2]
    assert (first.text, first.label, first.id) == ("train 0", 0, "0")
    assert (second.text, second.label) == ("train 1", 2)
    assert found.notes[0] == "columns: text=sentence, label=label"


def test_limits_and_few_shots_work_as_on_files(cached: str) -> None:
    assert len(_load(cached, "train", limit={"train": 4}).splits["train"]) == 4
    drawn = _load(cached, "train", "validation", shots=1)
    assert sorted(example.label for example in drawn.splits["train"]) == [0, 1, 2]
    assert all(example.text.startswith("train") for example in drawn.splits["validation"])


def test_rows_without_labels_and_splits_that_are_not_there_are_named(cached: str) -> None:
    assert _refusal(cached, "test") == "org/words test row 1: label is missing"
    assert _refusal(cached, "heldout") == 'no split "heldout" in org/words; there is train, validation, test'


def test_a_configuration_is_picked_by_name_and_the_choice_is_shown(cached: str, tmp_path: Path) -> None:
    _cache(tmp_path, "large")
    assert len(_load("org/words:large", "train").splits["train"]) == 9
    for message in (_refusal("org/words"), _refusal("org/words:small")):
        assert "large" in message
        assert "default" in message
        assert message.endswith("; org/words:NAME picks one")


def test_a_cached_name_is_read_at_once_where_the_hub_does_not_answer(
    cached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    def session() -> None:
        looks.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", session)
    assert len(_load(cached, "train", "validation").splits["train"]) == 9
    assert looks == [False]  # one look; the rest is asked of the cache
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
