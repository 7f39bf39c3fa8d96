"""Every job with prompts, from the command line and from Python: texts, pairs and scores, and what is refused."""

import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import graftlm
from graftlm.cli.main import code
from graftlm.core.comparison import CompareConfig
from graftlm.core.config import overrides
from graftlm.core.example import Example
from graftlm.core.results import fit_command
from graftlm.core.settings import DataConfig, FitConfig, PromptConfig
from graftlm.prompts import read
from graftlm.recipes.template import show
from graftlm.recipes.zero_shot import evaluate
from graftlm.tasks import collate
from prompts.models import WORDS, rows, saved, write
from prompts.test_families import made

SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
VERBALIZER = '{"a": ["w1", "w3"], "b": {"w2": 3, "w4": 1}}'
PROMPT = {"template": "{text} w5 {mask}", "verbalizer": json.loads(VERBALIZER)}
SOFT, TABLE = {**PROMPT, "template": "{soft} {mask}"}, {"name": "prompt-tuning"}
CUT = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def base(tmp_path: Path) -> str:
    return saved("bert", tmp_path / "base")


@pytest.fixture
def called(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        found = code([str(argument) for argument in arguments])
        return (found, *capfd.readouterr())

    return call


def data(folder: Path, **options: Any) -> dict[str, Any]:
    return {"path": write(folder / "rows.jsonl", rows(32, **options)), "split": CUT}


def test_the_command_line_trains_asks_and_predicts(base: str, tmp_path: Path, called: Any) -> None:
    path = data(tmp_path)["path"]
    asked = ("--template", "{source:shorten} {text:shorten} w5 {mask}", "--verbalizer", VERBALIZER)
    where = ("--data", path, "--split", "train=0.5,validation=0.25,test=0.25")
    done, _, err = called(
        *("fit", "--model", base, *where, "--method", "lora", *asked, "--out", str(tmp_path / "run")),
        *("-o", "training.max_steps=2", "-o", "prompt.soft=ptuning", "--quiet"),
    )
    assert done == 0, err
    card = json.loads((tmp_path / "run/adapter/graftlm.json").read_text())
    assert card["prompt"]["template"] == asked[1]
    assert card["prompt"]["verbalizer"]["words"]["b"] == {"w2": 3.0, "w4": 1.0}
    assert card["prompt"]["aliases"] == {"text": "text"}
    done, out, err = called("evaluate", str(tmp_path / "run"), "--data", path, "--split", "validation", "--quiet")
    assert done == 0, err
    assert "accuracy" in out
    done, out, err = called("predict", str(tmp_path / "run"), "--file", path, "--quiet")
    assert done == 0, err
    assert len(out.splitlines()) == 32
    done, _, err = called("predict", str(tmp_path / "run"), "--text", "w3", "--quiet")
    assert (done, err) == (2, 'error: an input has no "source", which the template has a field for; it has text\n')
    done, out, err = called(
        *("evaluate", "--model", base, "--data", path, "--cut", "train=0.5,validation=0.25,test=0.25", *asked),
        *("--split", "validation", "--quiet"),
    )
    assert done == 0, err
    assert "accuracy" in out


def test_a_pair_by_its_own_names_and_then_by_others(base: str, tmp_path: Path) -> None:
    named = [
        {"premise": row["text"], "hypothesis": row["text_pair"], "label": row["label"]} for row in rows(24, pair=True)
    ]
    path = write(tmp_path / "pairs.jsonl", named)
    prompt = {**PROMPT, "template": "{premise:shorten}? {mask}, {hypothesis:shorten}"}
    split = {"train": 0.5, "validation": 0.5}
    run = graftlm.fit(
        model=base,
        data={"path": path, "split": split},
        method="ia3",
        prompt=prompt,
        out=tmp_path / "run",
        training=SHORT,
    )
    other = write(tmp_path / "other.jsonl", [{**row, "id": "x"} for row in rows(24, pair=True)])
    again = graftlm.evaluate(tmp_path / "run", {"path": other, "split": split}, "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    assert graftlm.load(tmp_path / "run").predict([("w3 w4", "w5")])[0]["label"] in "ab"


def test_a_score_lies_between_the_numbers_of_its_words(base: str, tmp_path: Path) -> None:
    prompt = {"template": "{text} w5 {mask}", "verbalizer": {"0": "w1", "1": ["w2", "w4"]}}
    run = graftlm.fit(
        model=base,
        task="regression",
        data=data(tmp_path),
        method="lora",
        prompt=prompt,
        out=tmp_path / "run",
        training=SHORT,
    )
    again = graftlm.evaluate(tmp_path / "run", data(tmp_path), "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    answers = graftlm.load(tmp_path / "run").predict([row["text"] for row in rows(5)])
    assert all(0 < answer["score"] < 1 for answer in answers)
    with pytest.raises(graftlm.UserError, match='"low" is none'):
        graftlm.fit(
            model=base,
            task="regression",
            data=data(tmp_path),
            method="lora",
            prompt={**prompt, "verbalizer": {"low": "w1", "high": "w2"}},
            out=tmp_path / "other",
        )


def test_a_score_is_asked_for_by_words_of_several_tokens(base: str, tmp_path: Path) -> None:
    asked = DataConfig.parse(data(tmp_path))
    words = {"name": "multi-mask", "words": {"0": "w1", "1": "w2 w4"}}
    found = evaluate(
        base,
        PromptConfig.parse({"template": "{text} w5 {mask}", "verbalizer": words}),
        asked,
        "validation",
        task="regression",
    )
    assert 0 < found.metrics["mae"] < 1


@pytest.mark.parametrize("name", ["nan", "inf"])
def test_a_score_is_a_number_that_is_one(name: str, base: str, tmp_path: Path) -> None:
    prompt = PromptConfig.parse({"template": "{text} {mask}", "verbalizer": {name: "w1", "1": "w2"}})
    with pytest.raises(graftlm.UserError, match=f'"{name}" is none'):
        evaluate(base, prompt, DataConfig.parse(data(tmp_path)), "validation", task="regression")


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_text_is_cut_for_the_words_that_stand_behind_it(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "base")
    long = AutoTokenizer.from_pretrained(folder)
    long.model_max_length = 10_000  # then the model's positions are the limit
    long.save_pretrained(folder)
    texts = [{"text": "w9 " * 200, "label": "a"}, {"text": "w9", "label": "b"}]
    words = {"name": "multi-mask", "words": {"a": "w1 w2 w3", "b": "w2"}, "rule": "full"}
    prompt = PromptConfig.parse({"template": "{text:shorten} w9 {mask}", "verbalizer": words})
    source = DataConfig.parse({"path": write(tmp_path / "long.jsonl", texts), "split": {"test": 1}})
    assert evaluate(folder, prompt, source, "test").metrics["loss"] > 0


def test_a_row_without_a_templates_field_is_named_or_left_out(base: str, tmp_path: Path) -> None:
    texts = [{"text": "w1", "x": "w2", "label": "a"}, {"text": "w1", "x": None, "label": "b"}] * 2
    prompt = PromptConfig.parse({**PROMPT, "template": "{x} {mask}"})
    source = {"path": write(tmp_path / "gaps.jsonl", texts), "split": {"test": 1}}
    with pytest.raises(graftlm.UserError, match=r'gaps\.jsonl line 2 has no "x"'):
        evaluate(base, prompt, DataConfig.parse(source), "test")
    assert evaluate(base, prompt, DataConfig.parse({**source, "skip_bad": True}), "test").examples == 2


def test_a_task_without_a_prompt_is_refused_before_its_data_is_read(base: str, tmp_path: Path) -> None:
    with pytest.raises(graftlm.UserError, match='the task "tagging" has no prompt formulation'):
        evaluate(base, PromptConfig.parse(PROMPT), DataConfig.parse(data(tmp_path)), "validation", task="tagging")


def test_both_formulations_are_compared(base: str, tmp_path: Path) -> None:
    found = graftlm.compare(
        model=base,
        data=data(tmp_path),
        methods=["lora", {"name": "prompt-tuning", "length": 2}],
        formulations=["head", "prompt"],
        prompt={**PROMPT, "template": "{soft:2} {source} {text} {mask}"},
        training=SHORT,
        out=str(tmp_path / "compared"),
    )
    assert {row["method"] for row in found.rows} == {
        *("lora-head", "lora-prompt", "prompt-tuning-length2-head", "prompt-tuning-length2-prompt")
    }
    assert all(row["state"] == "done" and row["test"] is not None for row in found.rows)
    alone = json.loads((tmp_path / "compared/runs/lora-prompt-seed0/run.json").read_text())
    again = graftlm.fit(
        model=base,
        data=data(tmp_path),
        method="lora",
        prompt=alone["config"]["prompt"],
        training=SHORT,
        out=tmp_path / "alone",
    )
    kept = json.loads((tmp_path / "compared/runs/lora-prompt-seed0/metrics.json").read_text())
    assert kept["metrics"] == pytest.approx(again.metrics, abs=1e-4)


def test_a_prompts_run_that_is_left_alone_after_an_evaluation_ends_where_fit_ends(base: str, tmp_path: Path) -> None:
    shared = {"model": base, "data": data(tmp_path), "prompt": PROMPT}
    short = {**SHORT, "eval_steps": 1, "max_steps": 5}
    methods = [{"name": "lora", "training": {"max_steps": 2}}, {"name": "lora", "rank": 4}]
    compared = tmp_path / "compared"
    found = graftlm.compare(**shared, methods=methods, training=short, together=2, out=str(compared))
    assert [(row["state"], row["stopped"]) for row in found.rows] == [("done", "done")] * 2
    again = graftlm.fit(**shared, method={"name": "lora", "rank": 4}, training=short, out=tmp_path / "alone")
    kept = json.loads((compared / "runs/lora-r4-seed0/metrics.json").read_text())
    assert kept["metrics"] == pytest.approx(again.metrics, abs=1e-4)


def test_the_command_of_a_run_has_its_prompt() -> None:
    config = FitConfig.parse(
        {
            "model": "m",
            "data": "d",
            "method": "lora",
            "out": "o",
            "prompt": {"template": "{text} {mask}", **{"verbalizer": {"a": "x"}}},
        }
    )
    words = shlex.split(fit_command(config.model_dump(mode="json")))
    given = overrides([word for flag, word in pairwise(words) if flag == "-o"])
    assert given["prompt"] == {"template": "{text} {mask}", "verbalizer": {"a": "x"}}


def test_a_run_with_a_hard_template_is_merged_by_none_and_exported_where_peft_has_words(tmp_path: Path) -> None:
    for family, words in (("gpt2", None), ("bert", "PEFT has no task type for a masked")):
        out = tmp_path / family
        graftlm.fit(
            model=saved(family, tmp_path / f"{family}-base"),
            data=data(tmp_path),
            method="lora",
            prompt=PROMPT,
            out=out,
            training=SHORT,
        )
        with pytest.raises(graftlm.UserError, match="is asked by a template"):
            graftlm.merge(out, tmp_path / "merged")
        if words is None:
            graftlm.export_peft(out, tmp_path / "peft")
            assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
        else:
            with pytest.raises(graftlm.UserError, match=words):
                graftlm.export_peft(out, tmp_path / "peft2")


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"method": "head"}, "would train nothing: neither its method nor its template has parameters"),
        ({"task": "tagging"}, 'the task "tagging" has no prompt formulation'),
        ({"head": {"pooling": "mean"}}, "head.pooling = mean, but a prompt is read by the model's own LM head"),
        ({"prompt": {**PROMPT, "template": "{text}"}}, "has no {mask}; it needs one"),
        ({"prompt": {**PROMPT, "template": "{mask} {text} {mask}"}}, "has 2 masks; it needs one"),
        ({"prompt": {**PROMPT, "template": "{txt} {mask}"}}, 'no column "txt"; did you mean "text"?'),
        ({"prompt": {**PROMPT, "verbalizer": {"a": "w1"}}}, 'the verbalizer has no word for the label "b"'),
        ({"prompt": {**PROMPT, "verbalizer": {"a": "w1", "b": []}}}, "the words of b are a text, a list of texts"),
        ({"prompt": {**PROMPT, "soft": "lora", "template": "{soft} {mask}"}}, "prompt.soft"),
        ({"prompt": {**SOFT, "soft": {**TABLE, "length": 5}}}, "prompt.soft.length = 5 means nothing: a template says"),
        ({"prompt": {**SOFT, "soft": {**TABLE, "position_shift": False}}}, "prompt.soft.position_shift = false means"),
        ({"prompt": {"template": "{text} {mask}"}}, "option prompt.verbalizer is missing"),
        ({"prompt": {**SOFT, "soft": "lora"}}, 'prompt.soft = "lora" makes no virtual tokens; prompt-tuning, ptuning'),
        ({"prompt": {**PROMPT, "verbalizer": {"a": "\ud800", "b": "w2"}}}, "half a surrogate pair at character 1"),
        ({"prompt": {**PROMPT, "soft": "instance-prompt", "template": '{"soft": "w1"} {mask}'}}, "start from no words"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], wanted: str, base: str, tmp_path: Path) -> None:
    given = {"method": "lora", "prompt": PROMPT, **changed}
    if given.get("task") == "tagging":
        tagged = [{"tokens": ["w1", "w2"], "tags": ["O", "O"]}] * 4
        source: dict[str, Any] = {"path": write(tmp_path / "tagged.jsonl", tagged), "split": {"train": 0.5}}
    else:
        source = data(tmp_path)
    with pytest.raises(graftlm.UserError) as error:
        graftlm.fit(model=base, data=source, out=tmp_path / "run", training=SHORT, **given)
    assert wanted in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["bert", "t5", "bart"])
def test_tuned_words_start_as_the_words_themselves(family: str, tmp_path: Path) -> None:
    base, asked = saved(family, tmp_path / "base"), DataConfig.parse(data(tmp_path))
    found = [
        evaluate(base, PromptConfig.parse({**PROMPT, "template": text}), asked, "validation").metrics
        for text in ("{text} w5 w7 {mask}", '{text} {"soft": "w5 w7"} {mask}')
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    with pytest.raises(graftlm.UserError, match="virtual tokens that were not trained"):
        evaluate(base, PromptConfig.parse({**PROMPT, "template": "{text} {soft:2} {mask}"}), asked, "validation")


def test_a_shared_id_is_one_virtual_token(base: str, tmp_path: Path) -> None:
    prompt = {**PROMPT, "template": "{soft:id=x} {text} {soft:id=x} {soft} {mask}"}
    run = graftlm.fit(
        model=base, data=data(tmp_path), method="head", prompt=prompt, out=tmp_path / "run", training=SHORT
    )
    assert run.parameters["delta"] == 2 * 16
    predictor = graftlm.load(tmp_path / "run")
    (row,) = predictor.encode([Example("w3")]).rows
    assert [token - 60 for token in row.ids if token >= 60] == [0, 0, 1]


def test_padding_at_the_left_changes_nothing(tmp_path: Path) -> None:
    saved("gpt2", tmp_path)
    model = made("gpt2", ("lora",), tmp_path, "{soft:2} {text} {mask}")
    features = model.encode([Example(row["text"]) for row in rows(5)], "lora").rows
    batch = collate([(row, []) for row in features], 0, torch.device("cpu"), left=True)
    last = torch.full((5, 1), batch["input_ids"].shape[1] - 1)
    with torch.no_grad():
        right = model.forward({"lora": features})
        model.attached.route("lora")
        prompt = model.head.prompts["lora"]  # pyright: ignore[reportAttributeAccessIssue]
        states, logits = read(model.attached, batch, last, prompt.verbalizer.rows)
        left = prompt.verbalizer.scores(states, logits, {})
    assert torch.allclose(left, right, atol=1e-5)


def test_a_filled_template_is_shown_token_by_token(base: str, tmp_path: Path, called: Any) -> None:
    path = data(tmp_path)["path"]
    done, out, err = called(
        *("template", "{text:shorten} {soft:2} w5 {mask} .", "--model", base, "--data", path, "--row", "6"),
        *("--max-length", "9"),
    )
    assert done == 0, err
    assert "11 tokens of at most 11; 3 cut; 2 virtual\nthe mask is at 8\n" in out
    assert "virtual 2" in out
    done, _, err = called("template", "{text} {mask", "--model", base, "--text", "w1")
    assert (done, err[:44]) == (2, "error: template, character 8: { is not close")
    with pytest.raises(graftlm.UserError, match="max_length = 99, but"):
        show(base, PromptConfig.parse(PROMPT), Example("w1"), 99)


@pytest.mark.parametrize("more", [{"mlm_weight": 0.1}, {"verbalizer": {"name": "likelihood", "count": 1}}])
def test_a_templates_virtual_tokens_are_beside_max_length_and_within_the_positions(
    more: dict[str, Any], base: str, tmp_path: Path
) -> None:
    def kept(template: str, length: int) -> int:
        out = tmp_path / f"{len(template)} {length}"
        prompt = {**PROMPT, **more, "template": template}
        training = {**SHORT, "max_length": length}
        graftlm.fit(model=base, data=data(tmp_path), method="lora", prompt=prompt, training=training, out=out)
        predictor = graftlm.load(out)
        (row,) = predictor.encode([Example("w9 " * 60)]).rows
        return row.ids.count(WORDS.index("w9"))

    assert kept("{soft:20} {text:shorten} {mask}", 10) == kept("{text:shorten} {mask}", 10) == 7
    assert kept("{soft:20} {text:shorten} {mask}", 30) == 32 - 20 - 3


def test_turns_are_written_by_the_chat_template(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}{% if add_generation_prompt %}w3 {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    prompt = {**PROMPT, "template": "{turn:user}{text} ? {turn:assistant} w6 {mask}"}
    graftlm.fit(model=folder, data=data(tmp_path), method="lora", prompt=prompt, out=tmp_path / "run", training=SHORT)
    predictor = graftlm.load(tmp_path / "run")
    (row,) = predictor.encode([Example("w20 w21")]).rows
    said = predictor.model.base.tokenizer.convert_ids_to_tokens(row.ids)
    assert said == ["w1", "w20", "w21", "?", "w2", "w3", "w6"]
    assert predictor.card.prompt is not None
    assert predictor.card.prompt.chat_template == tokenizer.chat_template


def test_a_comparison_is_refused_what_it_cannot_compare() -> None:
    plain = {"model": "m", "data": "d", "methods": ["lora"], "out": "o"}
    with pytest.raises(graftlm.UserError, match="which needs prompt"):
        CompareConfig.parse({**plain, "formulations": ["head", "prompt"]})
    with pytest.raises(graftlm.UserError, match='has "head" alone'):
        CompareConfig.parse({**plain, "formulations": ["head"], "prompt": PROMPT})
