"""Generation on tiny models that write, with any method: trained, stored, asked again, many runs at once."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import graftlm
import tiny
from folders import saved, write
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.core.reporter import Silent
from graftlm.core.settings import DataConfig, HeadConfig
from graftlm.methods import parse as method_of
from graftlm.recipes._building import build
from graftlm.tasks import Features, load, parse
from graftlm.training import sorted_batches
from reliability.runs import Killed, Killing, left
from test_task_families import METHODS, words

FAMILIES = ("gpt2", "llama", "t5", "bart")
SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
QUICK = [("gpt2", "lora"), ("llama", "prefix"), ("t5", "adapter"), ("bart", "prompt-tuning"), ("gpt2", "full")]
QUICK += [("bart", "unipelt"), ("llama", "unipelt"), ("gpt2", "bitfit"), ("t5", "lora"), ("llama", "prompt-tuning")]
CASES = [
    pytest.param(family, method, marks=() if (family, method) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
    if method != "head" and (method != "bitfit" or family not in tiny.BIASLESS)
]


def pairs(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in range(count):
        own = words(row, 3 + row % 5 + 40 * (row % 9 == 8))
        rows.append({"text": " ".join(own), "target": " ".join(own[1:3]), "references": [" ".join(own[:2]), own[0]]})
    return rows


def task(method: str, **options: Any) -> dict[str, Any]:
    return {"name": "generation", "max_new_tokens": 6, "cache": method != "unipelt", **options}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_generator_is_trained_stored_and_asked_again(family: str, method: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family, lm=True), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    asked = task(method)
    run = graftlm.fit(
        model=model, task=asked, data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT, predict=True
    )
    assert {"bleu", "chrf", "rougeL", "exact_match", "loss"} == set(run.metrics)
    again = graftlm.evaluate(tmp_path / "run", data["path"], "validation", predict=False)
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    first = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    options = {name: value for name, value in asked.items() if name != "name"}
    examples = load(DataConfig.parse(data), parse(options, "generation"), splits=("validation",)).splits["validation"]
    predictor = graftlm.load(tmp_path / "run")
    assert [predictor.predict([example])[0] for example in examples] == first
    assert torch.isfinite(torch.tensor(run.metrics["loss"]))
    if method == "unipelt":
        gates = predictor.gates(["w1 w2 w3", "w4"])
        assert all(values.shape == (2,) for values in gates.values())
    with pytest.raises(graftlm.UserError, match="a run of generation gives no logits"):
        predictor.logits(examples[:1])


def made(family: str, names: tuple[str, ...], folder: Path, **options: Any) -> Any:
    """A model with runs of several methods, all their tensors random."""
    methods = {name: method_of(name, {k: v for k, v in METHODS[name].items() if k != "name"}) for name in names}
    problem = parse({"max_new_tokens": 6, **options}, "generation")
    base = load_base(str(folder), head="lm")
    built = build(base, methods, HeadConfig(), problem, dict.fromkeys(names, 7))
    tiny.randomise_runs(built.attached)
    return built


def examples_of(folder: Path, count: int = 8) -> list[Any]:
    return load(DataConfig(path=write(folder / "rows.jsonl", pairs(count))), "generation").splits["train"]


@pytest.mark.parametrize("family", ["gpt2", "gemma", "t5", "bart"])
def test_the_loss_is_that_of_the_whole_model_with_labels_on_the_target_alone(family: str, tmp_path: Path) -> None:
    """Heads that scale what they read (a tied T5) or add to what they give (BART) are as Transformers has them."""
    plain = tiny.model(family, lm=True)
    if family == "bart":
        plain.final_logits_bias.copy_(torch.randn(plain.final_logits_bias.shape))
    folder = Path(saved(plain, tmp_path / "base"))
    model = made(family, ("lora",), folder)
    encoded = model.encode(examples_of(tmp_path), "lora")
    model.attached.disabled()
    found = model.speaker.losses([(row, []) for row in encoded.rows], 3)
    for row, loss in zip(encoded.rows, found.tolist(), strict=True):
        ids, answer = torch.tensor([row.ids]), torch.tensor([row.answer])
        if model.attached.sites.encoder_decoder:
            expected = plain(input_ids=ids, labels=answer).loss
        else:
            labels = torch.cat([torch.full_like(ids, -100), answer], 1)
            expected = plain(input_ids=torch.cat([ids, answer], 1), labels=labels).loss
        assert loss == pytest.approx(float(expected.detach()), abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_the_first_batch_of_a_process_draws_what_any_other_would(family: str, tmp_path: Path) -> None:
    """BART adds to what its LM head gives, which the first batch finds out."""
    plain = tiny.model(family, lm=True)
    if family == "bart":
        plain.final_logits_bias.copy_(torch.randn(plain.final_logits_bias.shape))
    model = made(family, ("lora",), Path(saved(plain, tmp_path / "base")))
    rows = [(row, []) for row in model.encode(examples_of(tmp_path), "lora").rows]
    model.attached.base_dropout(True)
    model.attached.train().disabled()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(model.speaker.losses(rows, 3))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_runs_in_one_pass_learn_and_write_as_each_does_alone(family: str, tmp_path: Path) -> None:
    folder = Path(saved(tiny.model(family, lm=True), tmp_path / "base"))
    kinds = ("lora", "prompt-tuning", "prefix", "adapter")
    together, examples = made(family, kinds, folder), examples_of(tmp_path)
    encoded = together.encode(examples, "prefix")
    goals = together.task.goals(encoded)
    rows = {name: [0, 3, 5, 2] for name in kinds}
    everyone = dict.fromkeys(kinds, encoded.rows)
    together.attached.train()
    losses = together.losses(rows, dict.fromkeys(kinds, 1), everyone, dict.fromkeys(kinds, goals))
    for name in kinds:
        single = made(family, (name,), folder)
        for own, value in single.attached.parameters_of(name).items():
            value.data.copy_(together.attached.parameters_of(name)[own])
        single.attached.train()
        loss = single.losses({name: rows[name]}, {name: 1}, {name: encoded.rows}, {name: goals})
        assert torch.allclose(loss[name], losses[name], atol=1e-5)
        one, other = (it.answer(encoded, name, 8, Silent(), "") for it in (single, together))
        assert one.texts == other.texts


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_beams_give_the_best_first_with_the_scores_of_transformers(family: str, tmp_path: Path) -> None:
    folder = Path(saved(tiny.model(family, lm=True), tmp_path / "base"))
    model = made(family, ("lora",), folder, beams=3, best=3)
    encoded = model.encode(examples_of(tmp_path, 4), "lora")
    written = model.answer(encoded, "lora", 12, Silent(), "")
    alone = [
        model.answer(model.encode([example], "lora"), "lora", 1, Silent(), "").texts[0] for example in encoded.examples
    ]
    assert list(written.texts) == alone
    found = model.task.decode(written, encoded, model.problem)
    for row, answer, scores in zip(encoded.rows, found, written.scores, strict=True):
        out = model.attached.base.generate(
            input_ids=torch.tensor([row.ids]),
            attention_mask=torch.ones(1, len(row.ids), dtype=torch.long),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=6,
            eos_token_id=2,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert scores == pytest.approx(out.sequences_scores.tolist(), abs=1e-4)
        assert [each["score"] for each in answer["best"]] == sorted(scores, reverse=True)
        assert answer["text"] == answer["best"][0]["text"]


ENDS = [2, *range(20, 32)]


@pytest.mark.parametrize("options", [{}, {"beams": 3}], ids=str)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_answer_stops_at_any_end_of_the_generation_config_as_transformers_has_it(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    plain = tiny.model(family, lm=True)
    plain.generation_config.eos_token_id = ENDS
    model = made(family, ("lora",), Path(saved(plain, tmp_path / "base")), **options)
    encoded = model.encode(examples_of(tmp_path, 6), "lora")
    both, size = model.attached.sites.encoder_decoder, 6 * options.get("beams", 1)  # one batch
    written = model.answer(encoded, "lora", size, Silent(), "")
    (order,) = sorted_batches([len(row.ids) for row in encoded.rows], 6)
    given = tiny.padded([encoded.rows[place].ids for place in order], "right" if both else "left")
    found = GenerationConfig(
        num_beams=options.get("beams", 1),
        eos_token_id=ENDS,
        max_new_tokens=6,
        pad_token_id=0,
        **({"decoder_start_token_id": 0} if both else {}),
    )
    out = model.attached.base.generate(**given, generation_config=found)
    stopped = 0
    out = out[:, 1 if both else given["input_ids"].shape[1] :].tolist()
    for place, ids in zip(order, out, strict=True):
        own = list(itertools.takewhile(lambda token: token not in ENDS, ids))
        stopped += len(own) < len(ids)
        assert written.texts[place] == [model.base.tokenizer.decode(own, skip_special_tokens=True).strip()]
    assert stopped


def test_a_text_is_drawn_alike_beside_any_others_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    folder = Path(saved(tiny.model("gpt2", lm=True), tmp_path / "base"))
    model = made("gpt2", ("lora",), folder, sample=True, temperature=1.5, top_p=0.9, best=2)

    def drawn(texts: list[str], size: int) -> list[list[str]]:
        encoded = model.encode([Example(text) for text in texts], "lora")
        return [sorted(own) for own in model.answer(encoded, "lora", size, Silent(), "").texts]

    before = torch.get_rng_state()
    one, two, three = ("w1 w2", "w3 w4 w5 w6", "w7")
    alone = [drawn([text], 1)[0] for text in (one, two, three)]
    assert drawn([one, two, three], 8) == alone
    assert drawn([three, two, one], 2) == alone[::-1]
    again = drawn([one, one], 2)
    assert again[0] == alone[0] != again[1]
    assert torch.equal(before, torch.get_rng_state())


def test_draws_are_of_the_models_distribution(tmp_path: Path) -> None:
    folder = Path(saved(tiny.model("gpt2", lm=True), tmp_path / "base"))
    given = {"sample": True, "temperature": 0.5, "top_p": 0.8, "best": 4000, "max_new_tokens": 1}
    model = made("gpt2", ("lora",), folder, **given)
    encoded = model.encode([Example("w1 w2")], "lora")
    row = Features(encoded.rows[0].ids, None, answer=[0])
    scores = model.forward({"lora": [row]})[0, 0].detach() / 0.5
    shares, order = scores.softmax(-1).sort(descending=True)
    kept = shares[shares.cumsum(0) - shares < 0.8]
    expected = Counter[str]()
    for token, share in zip(order.tolist(), (kept / kept.sum()).tolist(), strict=False):
        expected[model.speaker._text([token])] += share
    (found,) = model.answer(encoded, "lora", 1, Silent(), "").texts
    assert set(found) == set(expected)
    assert {text: count / 4000 for text, count in Counter(found).items()} == pytest.approx(expected, abs=0.03)


def test_a_generator_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = saved(tiny.model("gpt2", lm=True), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    training = {**SHORT, "max_steps": 6, "eval_steps": 2, "save_steps": 1, "metric": "chrf"}
    given = {"model": model, "task": task("lora"), "data": data, "method": METHODS["lora"], "training": training}
    graftlm.fit(**given, out=tmp_path / "whole")
    with pytest.raises(Killed):
        graftlm.fit(**given, out=tmp_path / "killed", reporter=Killing(3))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


@pytest.mark.parametrize(("family", "method"), [("gpt2", "lora"), ("t5", "lora"), ("gpt2", "prompt-tuning")])
def test_peft_reads_a_generator_and_gives_the_same_logits(family: str, method: str, tmp_path: Path) -> None:
    plain = tiny.model(family, lm=True)
    model = saved(plain, tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    graftlm.fit(model=model, task=task(method), data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT)
    graftlm.export_peft(tmp_path / "run", tmp_path / "exported")
    predictor = graftlm.load(tmp_path / "run")
    row = Features([4, 9, 5, 7], None, answer=[20, 31, 2])
    expected = predictor.model.forward({"run": [row]})[0]
    peft = PeftModel.from_pretrained(plain, tmp_path / "exported").eval()
    with torch.no_grad():
        if family == "t5":
            out = peft(input_ids=torch.tensor([row.ids]), decoder_input_ids=torch.tensor([[0, 20, 31]])).logits[0]
        else:
            out = peft(input_ids=torch.tensor([[4, 9, 5, 7, 20, 31]])).logits[0, -3:]
    assert (out - expected).abs().max() < 1e-5


def test_an_untied_lm_head_is_trained_by_full(tmp_path: Path) -> None:
    plain = tiny.model("gpt2", lm=True, tie_word_embeddings=False)
    model = saved(plain, tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    graftlm.fit(model=model, task=task("full"), data=data, method="full", out=tmp_path / "run", training=SHORT)
    stored = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    (name,) = (name for name in stored if "lm_head" in name)
    assert not torch.equal(stored[name], plain.lm_head.weight)


def test_what_cannot_be_generated_is_refused_by_name(tmp_path: Path) -> None:
    model = saved(tiny.model("gpt2", lm=True), tmp_path / "base")
    encoder = saved(tiny.model("bert", lm=True), tmp_path / "encoder")
    t5 = saved(tiny.model("t5", lm=True), tmp_path / "t5")
    rows = write(tmp_path / "rows.jsonl", pairs(10))
    data = {"path": rows, "split": {"train": 0.6, "validation": 0.4}}
    right = {"model": model, "task": task("lora"), "data": data, "method": "lora"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": encoder}, "of type bert, which writes no texts"),
        ({"method": "head"}, "would train nothing"),
        ({"method": "unipelt"}, "task.cache=false"),
        ({"head": {"pooling": "mean"}}, "head.pooling = mean, but"),
        ({"task": task("lora", prompt="{question} {text}")}, 'task.prompt has a field "question", and the columns are'),
        ({"task": task("lora", prompt={"text": None})}, "put it into quotes of its own"),
        ({"task": task("lora", best=2)}, "best = 2 needs as many beams"),
        ({"task": task("lora", temperature=0.3)}, "temperature = 0.3 is for sample = true"),
        ({"task": task("lora", top_p=0.5, beams=2)}, "top_p = 0.5 is for sample = true"),
        ({"task": task("lora", chat_template="{{ messages }}")}, "chat_template is for chat = true"),
        ({"task": task("lora", max_new_tokens=2)}, r"rows.jsonl line \d+: the target has 3 tokens"),
        ({"task": task("lora", max_new_tokens=30)}, "leaves 2 of 32 tokens for a prompt"),
        ({"model": t5, "task": task("lora", max_new_tokens=33)}, "33 is more than the 32 tokens that a target may"),
        ({"task": task("lora", chat=True)}, "the tokenizer has no chat template"),
        ({"task": task("lora", target="{none}")}, 'task.target has a field "none"'),
    ]
    for number, (wrong, words_of_it) in enumerate(cases):
        with pytest.raises(graftlm.UserError, match=words_of_it):
            graftlm.fit(**{**right, **wrong}, out=tmp_path / f"run{number}", training=SHORT)
        assert not (tmp_path / f"run{number}").exists()


def test_a_chat_template_is_stored_and_served(tmp_path: Path) -> None:
    model = Path(saved(tiny.model("gpt2", lm=True), tmp_path / "base"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}w3"
    tokenizer.save_pretrained(model)
    data = {"path": write(tmp_path / "rows.jsonl", pairs(10)), "split": {"train": 0.6, "validation": 0.4}}
    asked = task("lora", chat=True, system="w9")
    graftlm.fit(model=str(model), task=asked, data=data, method="lora", out=tmp_path / "run", training=SHORT)
    predictor = graftlm.load(tmp_path / "run")
    predictor.model.base.tokenizer.chat_template = "{{ 1 / 0 }}"
    predictor.model.base.tokenizer.eos_token = "w3"  # an end that the template writes is the prompt's
    row = predictor.encode([Example("w5 {text} w6")]).rows[0]
    said = predictor.model.base.tokenizer.convert_ids_to_tokens(row.ids)
    assert said == ["w1", "w9", "w2", "w1", "w5", "<s>", "w6", "w2", "w3"]  # "<s>" is what no word is


def test_a_long_prompt_is_cut_in_its_field_and_counted_and_a_target_never(tmp_path: Path) -> None:
    folder = Path(saved(tiny.model("gpt2", lm=True), tmp_path / "base"))
    model = made("gpt2", ("lora",), folder, prompt="w1 {text} w2", max_new_tokens=20)
    long, right = " ".join(["w7"] * 50), " ".join(["w8"] * 25)
    given = [Example("", meta={"row": {"text": long}, "target": "w3"}, at="a"), Example("w4")]
    encoded = model.encode(given, "lora")
    word = model.base.tokenizer.convert_tokens_to_ids
    assert encoded.rows[0].ids == [word("w1"), *[word("w7")] * 10, word("w2")]
    assert encoded.notes == ("1 prompts are longer than 12 tokens and were cut at their longest field",)
    over = [Example("", meta={"row": {"text": "w5"}, "target": right}, at="a")]
    assert model.encode(over, "lora").rows[0].answer is None
    assert "they have no loss" in model.encode(over, "lora").notes[0]


MERGED = [("gpt2", "lora"), ("t5", "lora"), ("bart", "bitfit")]


@pytest.mark.parametrize(("family", "method"), MERGED)
def test_a_merged_generator_is_a_plain_model_that_writes_the_same(family: str, method: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family, lm=True), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    asked = task(method, prompt="w1 {text} w2")
    graftlm.fit(model=model, task=asked, data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT)
    graftlm.merge(tmp_path / "run", tmp_path / "merged")
    kind = AutoModelForSeq2SeqLM if family in tiny.ENCODER_DECODER else AutoModelForCausalLM
    plain, predictor = kind.from_pretrained(tmp_path / "merged").eval(), graftlm.load(tmp_path / "run")
    encoded = predictor.encode([Example("w5 w6"), Example("w7")])
    expected = predictor.model.answer(encoded, "run", 2, Silent(), "").texts
    for row, texts in zip(encoded.rows, expected, strict=True):
        ids = torch.tensor([row.ids])
        out = plain.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0)[0]
        written = out[1 if family in tiny.ENCODER_DECODER else len(row.ids) :].tolist()
        written = written[: written.index(2)] if 2 in written else written
        assert predictor.model.base.tokenizer.decode(written, skip_special_tokens=True).strip() == texts[0]


def test_a_generator_needs_no_validation(tmp_path: Path) -> None:
    model = saved(tiny.model("gpt2", lm=True), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(12)), "split": {"train": 1.0}}
    run = graftlm.fit(
        model=model, task=task("lora"), data=data, method="lora", out=tmp_path / "run", training=SHORT, predict=True
    )
    assert (run.stopped, dict(run.metrics)) == ("done", {})
    assert set(graftlm.load(tmp_path / "run").predict(["w1 w2"])[0]) == {"text"}
