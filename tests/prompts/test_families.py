"""The prompt formulation on every family with every method: trained on few examples, stored, asked again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

import graftlm
import tiny
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.core.settings import HeadConfig, PromptConfig
from graftlm.methods import parse as method_of
from graftlm.prompts import read
from graftlm.recipes._building import build
from graftlm.recipes._model import TaskModel
from graftlm.tasks import parse as task_of
from prompts.models import WORDS, rows, saved, write
from test_task_families import METHODS as BASIC

METHODS: dict[str, dict[str, Any]] = {
    **BASIC,
    "ptuning": {"name": "ptuning", "length": 2},
    "instance-prompt": {"name": "instance-prompt", "length": 2, "bottleneck": 4},
    "union": {"name": "union", "parts": ["lora", {"name": "prompt-tuning", "length": 2}]},
}
FAMILIES = tuple(family for family in tiny.TABLED if family != "qwen2")  # whose class takes no tokenizer of words
QUICK = [("bert", "lora"), ("roberta", "instance-prompt"), ("modernbert", "union"), ("albert", "head")]
QUICK += [("gpt2", "prefix"), ("llama", "ptuning"), ("t5", "adapter"), ("bart", "prompt-tuning"), ("gpt2", "full")]
CASES = [
    pytest.param(family, method, marks=() if (family, method) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
    if method != "bitfit" or family not in tiny.BIASLESS
]
WORDS_OF = {"a": ["w1", "w3"], "b": {"w2": 3, "w4": 1}}


def prompt(template: str = "{text:shorten} w5 {soft:2} , {mask}", **options: Any) -> dict[str, Any]:
    return {"template": template, "verbalizer": WORDS_OF, **options}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_prompt_run_is_trained_stored_and_asked_again(family: str, method: str, tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", rows(24)), "split": {"train": 0.75, "validation": 0.25}}
    run = graftlm.fit(
        model=saved(family, tmp_path / "base"),
        data=data,
        method=METHODS[method],
        prompt=prompt(),
        out=tmp_path / "run",
        training={"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2},
        predict=True,
    )
    again = graftlm.evaluate(tmp_path / "run", data, "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    predictor = graftlm.load(tmp_path / "run")
    texts = [row["text"] for row in rows(24)][18:]
    together = predictor.predict(texts)
    for text, found in zip(texts, together, strict=True):
        assert predictor.predict([text])[0]["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)


def made(family: str, names: tuple[str, ...], folder: Path, *templates: str) -> TaskModel:
    """Runs of several methods, each with a template, all their tensors random."""
    methods = {name: method_of(name, {k: v for k, v in METHODS[name].items() if k != "name"}) for name in names}
    configs = {name: PromptConfig.parse(prompt(templates[place % len(templates)])) for place, name in enumerate(names)}
    problem = task_of({}, "classification", ("a", "b"))
    base = load_base(str(folder), head="own")
    built = build(base, methods, HeadConfig(), problem, dict.fromkeys(names, 7), configs)
    tiny.randomise_runs(built.attached)
    return built


HEADS = ("bert", "distilbert", "electra", "modernbert", "gpt2", "opt", "t5", "bart")  # unlike each other
TEMPLATES = ("{text} w5 {soft:2} , {mask}", "{soft:3} {text} {mask}", "w7 {text} w8 {mask}")


@pytest.mark.parametrize("family", tiny.sparing(FAMILIES, ("bert", "gpt2", "t5", "bart")))
def test_many_prompt_runs_in_one_pass_equal_separate_ones(family: str, tmp_path: Path) -> None:
    saved(family, tmp_path)
    names = ("lora", "prompt-tuning", "prefix", "instance-prompt")
    model = made(family, names, tmp_path, *TEMPLATES)
    examples = [Example(row["text"]) for row in rows(6)]
    features = {name: model.encode(examples, name).rows for name in names}
    model.attached.eval()
    with torch.no_grad():
        together = model.forward(features).split([6] * len(names))
        for name, found in zip(names, together, strict=True):
            assert torch.allclose(model.forward({name: features[name]}), found, atol=1e-5)


@pytest.mark.parametrize("family", tiny.sparing(FAMILIES, HEADS))
def test_the_head_at_the_mask_over_few_words_is_the_full_computation(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    template = "{text} w5 {mask}"
    model = made(family, ("lora",), tmp_path, template)
    rows_of = model.encode([Example(row["text"]) for row in rows(5)], "lora").rows
    kind = {True: AutoModelForSeq2SeqLM, False: AutoModelForCausalLM if family in tiny.CAUSAL else AutoModelForMaskedLM}
    plain = kind[family in tiny.ENCODER_DECODER].from_pretrained(folder).eval()
    mask = WORDS.index("<mask>")
    with torch.no_grad(), model.attached.disabled():
        for row in rows_of:
            ids = torch.tensor([row.ids])
            extra: dict[str, Any] = {}
            place = row.places[0] if row.places else 0
            if family in tiny.ENCODER_DECODER:
                start = plain.config.decoder_start_token_id
                before = [mask] if family != "bart" else row.ids[:place]
                extra = {"decoder_input_ids": torch.tensor([[start, *before]])}
                place = len(before)
            whole = plain(input_ids=ids, **extra).logits[0, place]
            words = torch.tensor([WORDS.index(word) for word in ("w1", "w2", "w3", "w4")])
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}
            _, few = read(model.attached, batch, torch.tensor([[place]]), words)
            assert torch.allclose(few[0, 0], whole[words], atol=1e-5)
