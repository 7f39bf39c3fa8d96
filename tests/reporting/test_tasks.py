"""Any task can be compared, and what its examples add up to is its first metric, which is what is resampled."""

import json
from pathlib import Path
from typing import Any

import pytest

import graftlm
import tiny
from folders import saved, write
from graftlm.core.files import read_json
from graftlm.core.results import read_lines, results
from graftlm.reporting._settings import settings
from test_cloze import masked, with_mask
from test_generation import pairs
from test_task_families import ROWS

SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}


ROWS = {**ROWS, "cloze": masked}


def _true(task: str, row: dict[str, Any]) -> tuple[str, str]:
    """A row's text, and its answer as a report spells it."""
    if task in ("spans", "multi-span"):
        found = [one["text"] for one in row["answers"]]
        return row["question"], "".join(found) if task == "spans" else json.dumps(found)
    if task == "tagging":
        return " ".join(row["tokens"]), json.dumps(row["tags"])
    if task == "cloze":
        return row["text"], json.dumps(row["words"])
    if task == "multilabel":
        return row["text"], json.dumps(row["labels"])
    return (row["input"], row["target"]) if task == "spelling" else (row["text"], str(row["label"]))


@pytest.mark.parametrize("task", ROWS)
def test_the_shares_of_a_tasks_examples_add_up_to_its_metric(task: str, tmp_path: Path) -> None:
    split = {"train": 0.4, "validation": 0.2, "test": 0.4}
    model = with_mask("bert", tmp_path / "base") if task == "cloze" else saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](40)), "split": split}
    methods = ["bitfit" if task == "cloze" else "head", {"name": "lora", "rank": 2}]
    graftlm.compare(model=model, task=task, data=data, methods=methods, training=SHORT, out=str(tmp_path / "c"))
    known, texts = dict(_true(task, row) for row in ROWS[task](40)), read_lines(tmp_path / "c/examples.jsonl")
    assert [row["true"] for row in texts] == [known[row["text"]] for row in texts]
    for run in results([tmp_path / "c"]):
        test = read_json(run.folder / "run.json", "record")["test"]
        shares = [row["share"] for row in run.answers()]
        assert len(shares) == test["examples"] == 16
        assert run.test == test["metrics"][run.metric]
        if task in ("ordinal", "spelling"):  # no fraction of two sums: the uncertainty is that over seeds
            assert shares == [None] * 16
            continue
        hits = [own for own, text in zip(run.answers(), texts, strict=True) if own["answer"] == text["true"]]
        assert all(own["share"][0] == own["share"][1] for own in hits)
        above, below = (sum(share[side] for share in shares) for side in (0, 1))
        assert (above / below if below else 0.0) == pytest.approx(run.test, abs=1e-9)
    assert all(setting.scores() is not None for setting in settings(results([tmp_path / "c"])))
    assert (tmp_path / "c/report.html").is_file()


def test_texts_are_compared_and_any_reference_is_right(tmp_path: Path) -> None:
    model = saved(tiny.model("gpt2", lm=True), tmp_path / "base")
    rows = pairs(20)
    data = {"path": write(tmp_path / "rows.jsonl", rows), "split": {"train": 0.4, "validation": 0.2, "test": 0.4}}
    task, methods = (
        {"name": "generation", "max_new_tokens": 6},
        [{"name": "prompt-tuning", "length": 3}, {"name": "lora", "rank": 2}],
    )
    graftlm.compare(model=model, task=task, data=data, methods=methods, training=SHORT, out=str(tmp_path / "c"))
    known = {row["text"]: row["references"] for row in rows}
    assert all(row["true"] == known[row["text"]] for row in read_lines(tmp_path / "c/examples.jsonl"))
    for run in results([tmp_path / "c"]):
        assert all(row["answer"].startswith("w") for row in run.answers())
    assert "Where methods disagree" in (tmp_path / "c/report.html").read_text()
