"""Tagging and spans through the command: learned, asked by text and by file, bad rows, options."""

import json
from pathlib import Path
from typing import Any

import pytest

GOOD = ("good", "great", "fine", "sunny", "happy")
BAD = ("bad", "awful", "poor", "rainy", "sad")
LEARN = ("--method", "lora", "--lr", "0.03", "--epochs", "25", "--batch-size", "8", "--quiet")


def folder(rows: list[dict[str, Any]]) -> str:
    Path("data").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "data"


def tagged(count: int) -> list[dict[str, Any]]:
    rows = []
    for place in range(count):
        words = ["the", GOOD[place % 5], "day", "is", BAD[(place + place // 5) % 5]]
        rows.append({"id": f"r{place}", "tokens": words, "ner_tags": ["O", "B-UP", "I-UP", "O", "B-DOWN"]})
    return rows


def test_a_tagger_is_trained_measured_and_asked(graftlm, model) -> None:
    data = folder(tagged(25))
    code, _, err = graftlm("fit", "--model", model, "--task", "tagging", "--data", data, "--out", "run", *LEARN)
    assert (code, err) == (0, "")
    code, out, err = graftlm("evaluate", "run", "--data", data)
    assert code == 0
    assert json.loads(Path("run/metrics.json").read_text())["metrics"]["f1"] == 1.0
    assert "UP" in out
    assert "confusion" not in out
    text = "the  great\tday is sad"
    code, out, err = graftlm("predict", "run", "--text", text, "--quiet")
    answer = json.loads(out)
    assert answer["words"] == text.split()
    assert answer["tags"] == ["O", "B-UP", "I-UP", "O", "B-DOWN"]
    assert [(each["type"], text[each["start"] : each["end"]]) for each in answer["entities"]] == [
        ("UP", "great\tday"),
        ("DOWN", "sad"),
    ]
    Path("ask.jsonl").write_text('{"id": 7, "tokens": ["the", "fine", "day", "is", "sad"]}\n')
    code, out, err = graftlm("predict", "run", "--file", "ask.jsonl", "--quiet")
    assert (json.loads(out)["id"], json.loads(out)["tags"]) == ("7", ["O", "B-UP", "I-UP", "O", "B-DOWN"])


def test_a_long_text_is_read_in_parts_and_that_is_said(graftlm, model) -> None:
    data = folder(tagged(10))
    flags = ("-o", "training.max_steps=1", "--method", "head", "--quiet")
    assert graftlm("fit", "--model", model, "--task", "tagging", "--data", data, "--out", "run", *flags)[0] == 0
    code, out, err = graftlm("predict", "run", "--text", "day " * 90)
    assert code == 0
    assert len(json.loads(out)["tags"]) == 90
    assert "1 texts are longer than 32 tokens and are read in parts that overlap" in err


def test_a_bad_tag_names_its_line_and_is_mended_or_left_out_by_option(graftlm, model) -> None:
    rows = tagged(6)
    rows[3]["ner_tags"][1] = "I-UP"
    data = folder(rows)
    fit = ("fit", "--model", model, "--task", "tagging", "--data", data, "--out", "run", "--method", "head")
    short = ("-o", "training.max_steps=1")
    code, _, err = graftlm(*fit, *short)
    assert code == 2
    assert 'train.jsonl line 4: tag 2 is "I-UP" after "O", where BIO writes "B-UP"; task.repair = true mends' in err
    assert not Path("run").exists()
    code, _, err = graftlm(*fit, *short, "-o", "task.repair=true")
    assert code == 0
    assert "1 of 6 examples of train had tags that were mended" in err
    code, _, err = graftlm(*fit, *short, "--skip-bad", "--overwrite")
    assert code == 0
    assert "1 of 6 examples in data/train.jsonl are left out" in err


def asked(count: int) -> list[dict[str, Any]]:
    rows = []
    for place in range(count):
        context = f"the day is {GOOD[place % 5]} : it is {BAD[(place + place // 5) % 5]}"
        bad = place % 2
        question, answer = ("is it bad", context.split()[-1]) if bad else ("is it good", context.split()[3])
        start = context.rindex(answer)
        answers = {"text": [answer], "answer_start": [start]}
        rows.append({"id": place, "question": question, "context": context, "answers": answers})
    return rows


def test_a_question_is_answered_with_its_characters(graftlm, model) -> None:
    data = folder(asked(25))
    code, _, err = graftlm("fit", "--model", model, "--task", "spans", "--data", data, "--out", "run", *LEARN)
    assert (code, err) == (0, "")
    assert graftlm("evaluate", "run", "--data", data, "--predict")[0] == 0
    assert json.loads(Path("run/metrics.json").read_text())["metrics"]["exact_match"] > 0.9
    context = "it  is fine \N{THUMBS UP SIGN} the day is awful"
    code, out, err = graftlm("predict", "run", "--text", "is it good", "--text-pair", context, "--quiet")
    answer = json.loads(out)
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    assert len(answer["best"]) == 5
    code, _, err = graftlm("predict", "run", "--text", "is it good", "--quiet")
    assert code == 2
    assert "this run was trained on pairs of texts, but input 1 is one text" in err


def test_an_answer_that_is_not_there_names_its_line(graftlm, model) -> None:
    rows = asked(5)
    rows[2]["answers"]["answer_start"] = [1]
    fit = ("fit", "--model", model, "--task", "spans", "--data", folder(rows), "--out", "run", "--method", "head")
    code, _, err = graftlm(*fit)
    assert code == 2
    assert "train.jsonl line 3: answers[0] is" in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("task.stryde=3", 'no option "task.stryde"; did you mean "task.stride"?'),
        ("task.stride=0", "option task.stride = 0: input should be greater than 0"),
        ("training.metric=f2", 'no metric "f2"; did you mean "f1"?'),
        ("head.pooling=mean", "pooling = mean, but this task reads each token by itself"),
        ("data.shots=2", 'shots = 2: the task "spans" has no shots; leave it out'),
    ],
)
def test_options_that_do_not_fit_are_refused(graftlm, model, option: str, said: str) -> None:
    fit = ("fit", "--model", model, "--task", "spans", "--data", folder(asked(5)), "--out", "run", "--method", "head")
    code, _, err = graftlm(*fit, "-o", option)
    assert code == 2
    assert said in err
    assert not Path("run").exists()


def test_another_task_takes_no_options_of_the_first(graftlm, model) -> None:
    Path("run.yaml").write_text("task: {name: spans, stride: 7}\n")
    data = folder(tagged(6))
    flags = ("--model", model, "--data", data, "--method", "head", "--out", "run", "-o", "training.max_steps=1")
    assert graftlm("fit", "run.yaml", "--task", "tagging", *flags)[0] == 0
    assert json.loads(Path("run/run.json").read_text())["config"]["task"] == {"name": "tagging"}
