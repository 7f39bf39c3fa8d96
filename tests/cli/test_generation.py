"""`graftlm fit`, `evaluate` and `predict` for tasks that write and rank."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from folders import saved

SHORT = ("-o", "training.max_steps=2", "-o", "training.batch_size=4")


def folder(rows: list[dict[str, Any]]) -> str:
    Path("data").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "data"


@pytest.fixture
def writer(tmp_path: Path) -> str:
    return saved(tiny.model("gpt2", lm=True), tmp_path / "writer")


def test_a_text_is_written_for_each_line_with_its_own_words_and_beams_by_option(graftlm, writer) -> None:
    rows = [{"id": f"r{row}", "mr": f"w{row} {{w3}} w4", "target": f"w{row} w5"} for row in range(9)]
    options = ("-o", 'task.prompt="{mr} w9"', "-o", "task.max_new_tokens=5", "-o", "task.metrics=[chrf, numeric_match]")
    fit = ("fit", "--model", writer, "--task", "generation", "--data", folder(rows), "--method", "lora")
    code, _, err = graftlm(*fit, "--out", "run", *options, *SHORT, "--quiet")
    assert (code, err) == (0, "")
    code, out, err = graftlm("evaluate", "run", "--data", "data", "--quiet")
    assert code == 0
    assert list(json.loads(Path("run/metrics.json").read_text())["metrics"]) == ["loss", "chrf", "numeric_match"]
    asked = ("predict", "run", "--file", "data/test.jsonl", "--quiet")
    code, out, err = graftlm(*asked)
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [list(answer) for answer in answers] == [["id", "text"]] * 9
    code, out, _ = graftlm("predict", "run", "--text", "w3 {w3} w4", "--quiet")
    assert json.loads(out)["text"] == answers[3]["text"]
    code, out, _ = graftlm(*asked, "-o", "task.beams=2", "-o", "task.best=2")
    assert [len(json.loads(line)["best"]) for line in out.splitlines()] == [2] * 9
    code, _, err = graftlm(*asked, "-o", "training.batch_size=2")
    assert code == 2
    assert "a finished run takes options of its task only" in err
    Path("other.jsonl").write_text('{"meaning": "w1"}\n')
    code, _, err = graftlm("predict", "run", "--file", "other.jsonl")
    assert code == 2
    assert 'other.jsonl line 1 has meaning, and task.prompt has a field "mr"' in err
    code, out, _ = graftlm("predict", "run", "--file", "other.jsonl", "--columns", "mr=meaning", "--quiet")
    assert code == 0


def test_candidates_are_ranked_for_each_query(graftlm, model) -> None:
    days = ("good", "great", "fine", "sunny", "bad", "awful")
    rows = [{"id": day, "query": f"a {day} day", "document": f"the day is {day}"} for day in days]
    fit = ("fit", "--model", model, "--task", "matching", "--data", folder(rows), "--out", "run", "--method", "lora")
    code, _, err = graftlm(*fit, *SHORT, "--quiet")
    assert (code, err) == (0, "")
    Path("candidates.jsonl").write_text("".join(json.dumps({"id": day, "text": f"a {day} day"}) + "\n" for day in days))
    asked = ("predict", "run", "--file", "data/test.jsonl", "--rank", "candidates.jsonl", "--quiet")
    code, out, err = graftlm(*asked, "--top", "2")
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [answer["id"] for answer in answers] == list(days)
    assert [answer["best"][0]["id"] for answer in answers] == list(days)
    assert all(len(answer["best"]) == 2 for answer in answers)


def test_only_a_run_of_matching_ranks(graftlm, writer) -> None:
    rows = [{"text": f"w{row}", "target": "w5"} for row in range(9)]
    fit = ("fit", "--model", writer, "--task", "generation", "--data", folder(rows), "--method", "lora")
    assert graftlm(*fit, "--out", "run", "-o", "task.max_new_tokens=4", *SHORT)[0] == 0
    code, _, err = graftlm("predict", "run", "--text", "w1", "--rank", "data/test.jsonl")
    assert code == 2
    assert "this run was trained on generation; a run of matching ranks candidates" in err


def test_several_generators_are_compared_in_one_pass(graftlm, writer) -> None:
    rows = [{"text": f"w{row} w2", "target": f"w{row}"} for row in range(9)]
    compare = ("compare", "--model", writer, "--data", folder(rows), "--out", "all", "--methods", "lora,prefix")
    task = ("-o", "task.name=generation", "-o", "task.max_new_tokens=4")
    code, _, err = graftlm(*compare, "--seeds", "2", *task, *SHORT)
    assert code == 0, err
    results = Path("all/results.csv").read_text().splitlines()
    assert len(results) == 5
    assert all(line.split(",")[7] for line in results[1:])
