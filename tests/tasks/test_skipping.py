"""`skip_bad` for single texts and pairs: rows that cannot be used are counted, with the first one's line."""

from typing import Any

import pytest

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load, parse

GOOD = [{"text": f"text {row}", "label": row % 3, "score": row / 2} for row in range(6)]
BAD: dict[str, Any] = {
    "classification": {"text": "x", "label": None},
    "regression": {"text": "x", "score": "much"},
    "ordinal": {"text": "x", "label": "n/a"},
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_cannot_be_used_are_left_out_and_counted(name: str, write: Any) -> None:
    own = "score" if name == "regression" else "label"
    rows = [{"text": row["text"], own: row[own]} for row in GOOD]
    rows[2:2] = [BAD[name], {"text": None, own: 1}]
    path = str(write("train.jsonl", rows))
    with pytest.raises(UserError, match=r"line \d"):
        load(DataConfig(path=path), name)
    data = load(DataConfig(path=path, skip_bad=True), parse({}, name))
    assert [example.text for example in data.splits["train"]] == [row["text"] for row in GOOD]
    (note,) = (note for note in data.notes if "left out" in note)
    assert note.startswith(f"2 of 8 examples in {path} are left out; the first: {path} line 3: ")
    cut = load(DataConfig(path=path, skip_bad=True, limit={"train": 5}), parse({}, name))
    assert [example.text for example in cut.splits["train"]] == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("name", ["classification", "ordinal"])
def test_a_class_that_train_has_not_is_left_out_elsewhere(name: str, write: Any, tmp_path: Any) -> None:
    write("train.jsonl", [{"text": row["text"], "label": row["label"]} for row in GOOD])
    write("validation.jsonl", [{"text": "a", "label": 7}, {"text": "b", "label": 1}])
    data = load(DataConfig(path=str(tmp_path), skip_bad=True), parse({}, name))
    assert [example.label for example in data.splits["validation"]] == [1]
    assert data.labels == ("0", "1", "2")
    again = load(DataConfig(path=str(tmp_path), skip_bad=True), name, ("validation",), data.labels)
    assert len(again.splits["validation"]) == 1


def test_a_file_without_one_row_that_can_be_used_is_refused(write: Any) -> None:
    path = str(write("train.jsonl", [{"text": None, "label": 0}, {"text": None, "label": 1}]))
    with pytest.raises(UserError, match="none of the 2 examples"):
        load(DataConfig(path=path, skip_bad=True), "classification")
