"""Missing words by encoders' own MLM heads, with methods on tiny models and on a real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import graftlm
import tiny
from folders import saved, write
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.core.reporter import Silent
from graftlm.core.settings import HeadConfig
from graftlm.methods import parse as method_of
from graftlm.recipes._building import build
from graftlm.tasks import parse
from reliability.runs import Killed, Killing, left
from test_task_families import METHODS, words

REAL = Path(__file__).parents[2] / "shared/models/minilm-mlm"
SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
CASES = [("bert", "lora"), ("roberta", "prompt-tuning"), ("modernbert", "full"), ("electra", "bitfit")]
CASES += [("albert", "prefix"), ("distilbert", "adapter"), ("bert", "unipelt")]


def masked(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in range(count):
        own = words(row, 5 + row % 4 + 40 * (row % 6 == 5))
        hidden = [1, len(own) - 2]
        text = " ".join("[MASK]" if place in hidden else word for place, word in enumerate(own))
        rows.append({"text": text, "words": [own[place] for place in hidden]})
    return rows


def with_mask(family: str, folder: Path) -> str:
    """A model's folder whose tokenizer has a mask, "w56"."""
    model = saved(tiny.model(family, lm=True), folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.mask_token = "w56"
    tokenizer.save_pretrained(model)
    return model


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_guesser_is_trained_stored_and_asked_again(family: str, method: str, tmp_path: Path) -> None:
    model = with_mask(family, tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", masked(20)), "split": {"train": 0.6, "validation": 0.4}}
    run = graftlm.fit(
        model=model, task="cloze", data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT, predict=True
    )
    again = graftlm.evaluate(tmp_path / "run", data["path"], "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    first = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    predictor = graftlm.load(tmp_path / "run")
    for answer in first[:3]:
        text = answer["text"].split()
        text[1] = text[-2] = "[MASK]"
        (alone,) = predictor.predict([" ".join(text)])
        assert alone["words"] == answer["words"]
        assert len(alone["best"]) == 2
        assert all(len(own) == 5 for own in alone["best"])


def test_runs_in_one_pass_guess_as_each_does_alone(tmp_path: Path) -> None:
    folder = with_mask("bert", tmp_path / "base")
    kinds = ("lora", "prompt-tuning", "prefix")
    examples = [Example(row["text"], answer=tuple(row["words"])) for row in masked(8)]

    def made(names: tuple[str, ...]) -> Any:
        methods = {name: method_of(name, {k: v for k, v in METHODS[name].items() if k != "name"}) for name in names}
        base = load_base(folder, head="mlm")
        built = build(base, methods, HeadConfig(), parse({}, "cloze"), dict.fromkeys(names, 7))
        tiny.randomise_runs(built.attached)
        return built

    together = made(kinds)
    encoded = together.encode(examples, "prefix", 24)
    goals = together.task.goals(encoded)
    rows = {name: [0, 3, 5, 2] for name in kinds}
    everyone = dict.fromkeys(kinds, encoded.rows)
    losses = together.losses(rows, dict.fromkeys(kinds, 1), everyone, dict.fromkeys(kinds, goals))
    for name in kinds:
        single = made((name,))
        for own, value in single.attached.parameters_of(name).items():
            value.data.copy_(together.attached.parameters_of(name)[own])
        loss = single.losses({name: rows[name]}, {name: 1}, {name: encoded.rows}, {name: goals})
        assert torch.allclose(loss[name], losses[name], atol=1e-5)
        one = single.answer(encoded, name, 1, Silent(), "")
        assert torch.allclose(one.losses[[0, 3, 5, 2]], losses[name], atol=1e-5)
        assert one.ranks == together.answer(encoded, name, 20, Silent(), "").ranks


def test_a_guesser_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = with_mask("bert", tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", masked(20)), "split": {"train": 0.6, "validation": 0.4}}
    training = {**SHORT, "max_steps": 6, "eval_steps": 2, "save_steps": 1}
    given = {"model": model, "task": "cloze", "data": data, "method": METHODS["lora"], "training": training}
    graftlm.fit(**given, out=tmp_path / "whole")
    with pytest.raises(Killed):
        graftlm.fit(**given, out=tmp_path / "killed", reporter=Killing(3))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_what_cannot_be_guessed_is_refused_by_name(tmp_path: Path) -> None:
    bad = masked(6)
    bad[0]["words"] = ["w1"]
    bad[1]["text"] = "w1 w2"
    good = masked(6)
    path = write(tmp_path / "good.jsonl", good)
    decoder = saved(tiny.model("gpt2", lm=True), tmp_path / "decoder")
    maskless = saved(tiny.model("bert", lm=True), tmp_path / "maskless")
    bare = saved(tiny.model("bert"), tmp_path / "bare")
    right = {"model": with_mask("bert", tmp_path / "base"), "task": "cloze", "method": "lora"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": write(tmp_path / "a.jsonl", bad[:1])}, "line 1: 2 masks in text, but 1 words"),
        ({"data": write(tmp_path / "b.jsonl", bad[1:])}, r'line 1: text holds no "\[MASK\]"'),
        ({"data": path, "model": decoder}, "of type gpt2, which guesses no masked words"),
        ({"data": path, "model": maskless}, "has no mask token"),
        ({"data": path, "model": bare}, "lack .* tensors that BertForMaskedLM has"),
        ({"data": path, "method": "head"}, "would train nothing"),
    ]
    for number, (wrong, words_of_it) in enumerate(cases):
        given = {**right, **wrong}
        given["data"] = {"path": given["data"], "split": {"train": 1.0}}
        with pytest.raises(graftlm.UserError, match=words_of_it):
            graftlm.fit(**given, out=tmp_path / f"run{number}", training=SHORT)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not on this machine")
def test_a_real_encoder_guesses_as_transformers_does(tmp_path: Path) -> None:
    base = load_base(str(REAL), head="mlm")
    model = build(base, {"run": method_of("lora", {})}, HeadConfig(), parse({"best": 3}, "cloze"), {"run": 0})
    texts = ["The capital of France is [MASK].", "He plays the [MASK] in a \N{GUITAR} band, and sings [MASK] well."]
    examples = [Example(texts[0], answer=("paris",)), Example(texts[1], answer=("guitar", "very"))]
    encoded = model.encode(examples, "run")
    guessed = model.answer(encoded, "run", 2, Silent(), "")
    plain, tokenizer = AutoModelForMaskedLM.from_pretrained(REAL).eval(), base.tokenizer
    answers = model.task.decode(guessed, encoded, model.problem)
    for text, answer in zip(texts, answers, strict=True):
        given = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = plain(**given).logits[0]
        places = (given["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
        best = [tokenizer.decode([int(logits[place].argmax())]) for place in places]
        assert answer["words"] == best
    with pytest.raises(graftlm.UserError, match=r'"antidisestablishment" is . tokens here'):
        model.encode([Example("so [MASK] !", answer=("antidisestablishment",), at="x")], "run", strict=True)
