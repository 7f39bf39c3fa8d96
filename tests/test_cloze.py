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


def asked_for(count: int) -> list[dict[str, Any]]:
    return [{"what": " ".join(words(row, 3 + row % 4)), "words": f"w{row % 5}"} for row in range(count)]


@pytest.mark.parametrize(
    ("family", "method", "template"),
    [
        ("bert", "lora", "{soft:2} w1 {what:shorten} {mask} w3"),
        ("roberta", "prompt-tuning", "{what} ‖ w2 {mask}"),
        ("gpt2", "lora", "w1 {what} w2 {mask}"),
        ("llama", "prefix", "{soft:3} {what} {mask}"),
    ],
)
def test_a_template_asks_for_any_word_and_is_stored(family: str, method: str, template: str, tmp_path: Path) -> None:
    masks = family in ("bert", "roberta")
    model = with_mask(family, tmp_path / "base") if masks else saved(tiny.model(family, lm=True), tmp_path / "base")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/train.jsonl", asked_for(12))
    write(tmp_path / "data/validation.jsonl", asked_for(20)[12:])
    training = {**SHORT, "max_steps": 40, "learning_rate": 3e-2}
    given: dict[str, Any] = {"model": model, "task": "cloze", "data": tmp_path / "data", "method": METHODS[method]}
    run = graftlm.fit(**given, prompt={"template": template}, out=tmp_path / "run", training=training, predict=True)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run/history.jsonl").read_text().splitlines() if '"lr"' in line
    ]
    assert losses[-1] < losses[0]
    again = graftlm.evaluate(tmp_path / "run", tmp_path / "data", "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    predictor = graftlm.load(tmp_path / "run")
    kept = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    rows = [Example("", meta={"row": row}) for row in asked_for(20)]
    assert [answer["words"] for answer in kept] == [answer["words"] for answer in predictor.predict(rows)[12:]]
    assert predictor.predict([asked_for(1)[0]["what"]])[0] == predictor.predict(rows[:1])[0]  # the only field's text


def test_templates_with_other_fields_are_compared_in_one_pass(tmp_path: Path) -> None:
    rows = [
        {"one": row["what"], "two": f"w{place % 5}", "words": row["words"]} for place, row in enumerate(asked_for(20))
    ]
    data = {"path": write(tmp_path / "rows.jsonl", rows), "split": {"train": 0.6, "validation": 0.4}}
    model = with_mask("bert", tmp_path / "base")
    space = {"prompt.template": ["{one} {mask}", "w1 {two} w2 {mask}"]}
    search = {"space": space, "trials": 6, "batch": 3, "sampler": "random"}
    given: dict[str, Any] = {"model": model, "task": "cloze", "data": data, "methods": ["lora"], "training": SHORT}
    found = graftlm.compare(**given, prompt={"template": "{one} {mask}"}, search=search, out=tmp_path / "both")
    assert [row["state"] for row in found.rows] == ["done"] * 6
    templates = {
        json.loads((folder / "adapter/graftlm.json").read_text())["prompt"]["template"]
        for folder in (tmp_path / "both/runs").iterdir()
    }
    assert templates == set(space["prompt.template"])


def test_a_prompt_asks_as_transformers_does(tmp_path: Path) -> None:
    folder = with_mask("bert", tmp_path / "base")
    path = write(tmp_path / "rows.jsonl", asked_for(6))
    prompt = {"template": "w1 {what} {mask} w3"}
    found = graftlm.zero_shot(folder, prompt, {"path": path, "split": {"test": 1.0}}, task="cloze")
    plain, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    losses = []
    for row in asked_for(6):
        batch = tokenizer(f"w1 {row['what']} w56 w3", return_tensors="pt")
        place = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            logits = plain(**batch).logits[0, place]
        losses.append(float(-logits.log_softmax(-1)[tokenizer.convert_tokens_to_ids(row["words"])]))
    assert found.metrics["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_prompts_for_words_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    rows = asked_for(6)
    two = [{**rows[0], "words": ["w1", "w2"]}]
    right: dict[str, Any] = {"model": with_mask("bert", tmp_path / "base"), "task": "cloze", "method": "lora"}
    right |= {"prompt": {"template": "{what} {mask}"}, "data": write(tmp_path / "good.jsonl", rows)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prompt": {"template": "{what} w1"}}, "has no {mask}"),
        ({"prompt": {"template": "{which} {mask}"}}, 'prompt.template has a field "which", and the columns are what'),
        ({"prompt": {"template": "{what} {mask}", "verbalizer": {"a": "w1"}}}, "prompt.verbalizer is for labels"),
        ({"prompt": {"template": "{what} {mask}", "calibration": "pmi"}}, "prompt.calibration is for labels"),
        ({"data": write(tmp_path / "two.jsonl", two)}, "line 1: words has 2 words, and a template asks for one"),
        ({"data": write(tmp_path / "odd.jsonl", [{**rows[0], "words": "w1 w2"}])}, 'line 1: "w1 w2" is 2 tokens here'),
        ({"model": saved(tiny.model("t5", lm=True), tmp_path / "t5")}, "a masked or a causal model would work"),
        ({"task": {"name": "cloze", "prompt": "{what}"}}, "prompt.template stands in their place"),
        ({"prompt": None, "task": {"name": "cloze", "prompt": "{what}"}}, "--template gives one"),
    ]
    for number, (wrong, words_of_it) in enumerate(cases):
        given = {**right, **wrong}
        given["data"] = {"path": given["data"], "split": {"train": 1.0}}
        with pytest.raises(graftlm.UserError, match=words_of_it):
            graftlm.fit(**given, out=tmp_path / f"run{number}", training=SHORT)


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
