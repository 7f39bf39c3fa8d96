"""`skip_bad` for single texts and pairs: rows that cannot be used are counted, with the first one's line."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import graftlm
import tiny
from folders import saved
from graftlm.core.errors import UserError
from graftlm.core.reporter import Silent
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


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


LONG_CONTEXT = " ".join(f"w{place}" for place in range(50))
LONG: dict[str, dict[str, Any]] = {
    "generation": {"text": "w1", "target": "w3 w4 w5 w6 w7 w8"},
    "cloze": {"text": "w1 w56 w3", "words": "w4 w5"},
    "spans": {"question": "w1", "context": LONG_CONTEXT, "answers": LONG_CONTEXT},
}
OPTIONS = {"generation": {"max_new_tokens": 4}, "cloze": {"mask": "w56"}, "spans": {"stride": 4}}
LEARNED = [("gpt2", "generation"), ("t5", "generation"), ("bert", "cloze"), ("bert", "spans")]


def good_row(row: int) -> dict[str, Any]:
    texts = {"text": f"w{row + 1} w2 w56", "target": "w1 w2", "words": f"w{row}"}
    return texts | {"question": "w1", "context": LONG_CONTEXT, "answers": LONG_CONTEXT[3 * row :][:8]}


@pytest.mark.parametrize(("family", "name"), LEARNED)
@pytest.mark.parametrize("size", [2, 12])
def test_a_target_that_cannot_be_learned_changes_nothing_of_what_is(
    family: str, name: str, size: int, write: Any, tmp_path: Path
) -> None:
    model = saved(tiny.model(family, lm=True), tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.mask_token = "w56"
    tokenizer.save_pretrained(model)
    good = [{key: good_row(row)[key] for key in LONG[name]} for row in range(8)]
    task = {"name": name, **OPTIONS[name]}
    found = {}
    for kind, bad in (("good", []), ("both", [LONG[name]] * 4)):
        write(f"{kind}/train.jsonl", [*good, *bad])
        write(f"{kind}/validation.jsonl", [*good, *(bad if name != "spans" else [])])
        heard = Heard()
        run = graftlm.fit(
            model=model,
            task=task,
            data={"path": str(tmp_path / kind), "skip_bad": True},
            method={"name": "lora", "dropout": 0.0},
            out=tmp_path / f"run-{kind}",
            training={"max_steps": 4, "batch_size": size},
            reporter=heard,
        )
        history = (tmp_path / f"run-{kind}/history.jsonl").read_text().splitlines()
        losses = [row["loss"] for row in map(json.loads, history) if "lr" in row]
        found[kind] = [*losses, run.metrics["loss"]]
        left_out = [line for line in heard.warnings if "left out" in line]
    assert found["both"] == pytest.approx(found["good"], abs=1e-5)
    assert left_out == ["train: 4 of 12 examples have no token to learn and are left out"]
    assert not any("wrong" in line for line in heard.warnings if line.startswith("train"))


@pytest.mark.parametrize(("family", "name"), LEARNED)
def test_without_one_token_to_learn_a_run_is_refused(family: str, name: str, write: Any, tmp_path: Path) -> None:
    model = saved(tiny.model(family, lm=True), tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.mask_token = "w56"
    tokenizer.save_pretrained(model)
    good = {key: good_row(3)[key] for key in LONG[name]}
    write("train.jsonl", [good, LONG[name]])
    write("validation.jsonl", [good])

    def fitted(skip: bool) -> None:
        data = {"path": str(tmp_path), "skip_bad": skip}
        graftlm.fit(model=model, task={"name": name, **OPTIONS[name]}, data=data, method="lora", out=tmp_path / "run")

    with pytest.raises(UserError, match=r"line 2: .*--skip-bad leaves such"):
        fitted(skip=False)
    write("train.jsonl", [LONG[name]])
    with pytest.raises(UserError, match="none of the 1 training examples has a token to learn"):
        fitted(skip=True)
