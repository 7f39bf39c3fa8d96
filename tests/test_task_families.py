"""Tasks of tokens on tiny models of each kind, with any method: trained, stored, asked again, many runs at once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

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
from reliability.runs import Killed, Killing, left

METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "head": {"name": "head"},
    "lora": {"name": "lora", "rank": 2},
    "adapter": {"name": "adapter", "bottleneck": 4},
    "prefix": {"name": "prefix", "length": 3, "hidden": 4},
    "prompt-tuning": {"name": "prompt-tuning", "length": 3},
    "bitfit": {"name": "bitfit"},
    "unipelt": {"name": "unipelt"},
}
FAMILIES = ("bert", "gpt2", "llama", "t5", "bart")
TASKS = ("tagging", "spans")
TAGS = ("O", "B-A", "I-A", "B-B", "I-B")


def words(row: int, size: int) -> list[str]:
    draw = torch.Generator().manual_seed(row)
    return [f"w{word}" for word in torch.randint(tiny.VOCABULARY - 3, (size,), generator=draw).tolist()]


def tagged(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in range(count):
        own = words(row, 4 + row % 9 + 40 * (row % 7 == 0))  # some are longer than the model takes
        tags = [("B-A" if int(word[1:]) % 3 == 0 else "B-B" if int(word[1:]) % 5 == 0 else "O") for word in own]
        rows.append({"tokens": own, "tags": tags})
    return rows


def asked(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in range(count):
        context = " ".join(words(row, 12 + row % 5 + 40 * (row % 4 == 0)))
        start = context.index(" ", 9) + 1
        text = context[start : context.index(" ", start)]
        answers = [] if row % 5 == 4 else [{"text": text, "answer_start": start}]
        rows.append({"question": " ".join(words(row + 99, 3)), "context": context, "answers": answers})
    return rows


def labelled(count: int) -> list[dict[str, Any]]:
    rows = [words(row, 3 + row % 6) for row in range(count)]
    return [{"text": " ".join(own), "labels": sorted({f"l{int(word[1:]) % 4}" for word in own})} for own in rows]


def ranked(count: int) -> list[dict[str, Any]]:
    return [{"text": " ".join(words(row, 3 + row % 6)), "label": row % 4} for row in range(count)]


def misspelt(count: int) -> list[dict[str, Any]]:
    rows = [words(row, 3 + row % 6) for row in range(count)]
    right = [[f"w{int(word[1:]) // 4}" if int(word[1:]) % 4 == 1 else word for word in own] for own in rows]
    return [{"input": " ".join(one), "target": " ".join(other)} for one, other in zip(rows, right, strict=True)]


ROWS = {"tagging": tagged, "spans": asked, "multi-span": asked, "multilabel": labelled, "ordinal": ranked}
ROWS |= {"spelling": misspelt}
KEYS = {"tagging": "tags", "spans": "answer", "multi-span": "answers", "multilabel": "labels", "ordinal": "label"}
KEYS |= {"spelling": "edits"}
OTHERS = [
    *(("bert", "lora", task) for task in ROWS if task not in TASKS),
    ("llama", "prompt-tuning", "multi-span"),
    ("t5", "prefix", "multi-span"),
    ("bert", "prefix", "multilabel"),
    ("gpt2", "lora", "multilabel"),
    ("bart", "prompt-tuning", "multilabel"),
    ("bert", "adapter", "ordinal"),
    ("llama", "head", "ordinal"),
    ("t5", "lora", "ordinal"),
    ("bert", "adapter", "spelling"),
    ("gpt2", "lora", "spelling"),
]
SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
CASES = [
    (family, method, TASKS[(place + number) % 2])
    for place, family in enumerate(FAMILIES)
    for number, method in enumerate(METHODS)
    if method != "bitfit" or family not in tiny.BIASLESS
]


@pytest.mark.parametrize(("family", "method", "task"), CASES + OTHERS)
def test_a_task_is_trained_stored_and_asked_again(family: str, method: str, task: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](40)), "split": {"train": 0.6, "validation": 0.4}}
    run = graftlm.fit(
        model=model, task=task, data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT, predict=True
    )
    card = json.loads((tmp_path / "run/adapter/graftlm.json").read_text())
    assert card["task"] == task
    again = graftlm.evaluate(tmp_path / "run", data["path"], "validation", predict=False)
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    first = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    examples = load(
        DataConfig.parse(data), parse(card["options"], task), splits=("validation",), labels=card["labels"]
    ).splits["validation"]
    alone = [graftlm.load(tmp_path / "run").predict([example])[0] for example in examples[:3]]
    for one, other in zip(alone, first, strict=False):
        first_words = [each.get("answer") for each in one["answers"]] if task == "multi-span" else one[KEYS[task]]
        second_words = [each.get("answer") for each in other["answers"]] if task == "multi-span" else other[KEYS[task]]
        assert first_words == second_words


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


SPOKEN = [
    *((family, "tagging") for family in ("bert", "roberta", "distilbert", "electra", "albert", "gpt2", "gpt-neox")),
    *((family, "tagging") for family in ("llama", "qwen3", "gemma")),
    *(
        (family, "spans")
        for family in ("bert", "roberta", "distilbert", "electra", "albert", "gpt2", "gpt-neox", "opt")
    ),
]
PREFIXED = [("bert", "tagging"), ("gpt2", "spans")]


@pytest.mark.parametrize(
    ("family", "task", "method"),
    [(*case, "lora") for case in SPOKEN] + [(*case, name) for case in PREFIXED for name in ("prefix", "ptuning-v2")],
)
def test_peft_reads_a_head_of_tokens_and_gives_the_same_logits(
    family: str, task: str, method: str, tmp_path: Path
) -> None:
    model = saved(tiny.model(family, pad_token_id=0), tmp_path / "base")
    typed = task == "spans" and family in ("bert", "electra", "albert")
    if typed:
        names = ["input_ids", "token_type_ids", "attention_mask"]
        AutoTokenizer.from_pretrained(model, model_input_names=names).save_pretrained(model)
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](30)), "split": {"train": 0.6, "validation": 0.4}}
    graftlm.fit(
        model=model,
        task=task,
        data=data,
        method=METHODS.get(method, {"name": method, "length": 3}),
        out=tmp_path / "run",
        training=SHORT,
    )
    heard = Lines()
    graftlm.export_peft(tmp_path / "run", tmp_path / "exported", heard)
    assert any("does not hand token_type_ids on" in line for line in heard.lines) == typed
    predictor = graftlm.load(tmp_path / "run")
    assert predictor.card.layout == "peft"
    ids, types = torch.tensor([[4, 9, 5, 7, 20, 31]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    row = Features(ids[0].tolist(), types[0].tolist() if typed else None, list(range(6)))
    expected = predictor.model.logits([row], "run", 1, Silent(), "ours")[0]
    labels = {} if task == "spans" else {"num_labels": len(predictor.labels)}
    kind = AutoModelForQuestionAnswering if task == "spans" else AutoModelForTokenClassification
    peft = PeftModel.from_pretrained(kind.from_pretrained(model, pad_token_id=0, **labels), tmp_path / "exported")
    with torch.no_grad():
        out = peft.eval().base_model(input_ids=ids, token_type_ids=types) if typed else peft.eval()(input_ids=ids)
    found = torch.stack([out.start_logits[0], out.end_logits[0]], -1) if task == "spans" else out.logits[0]
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_virtual_tokens_and_neighbours_shift_no_answer(family: str, task: str, tmp_path: Path) -> None:
    """Runs with other methods in one batch give the logits that each gives alone, and losses too."""
    model = saved(tiny.model(family, dtype=torch.float64), tmp_path / "base")
    kinds = ("lora", "prompt-tuning", "prefix", "head")
    data = load(DataConfig(path=write(tmp_path / "rows.jsonl", ROWS[task](12))), task)
    problem = parse({}, task, data.labels)

    def made(names: tuple[str, ...]) -> Any:
        methods = {name: method_of(name, {k: v for k, v in METHODS[name].items() if k != "name"}) for name in names}
        built = build(load_base(model), methods, HeadConfig(dropout=0.2), problem, dict.fromkeys(names, 7))
        tiny.randomise_runs(built.attached)
        return built

    together = made(kinds)
    encoded = {name: together.encode(data.splits["train"], name, 24) for name in kinds}
    goals = {name: problem.module.goals(own) for name, own in encoded.items()}
    rows = {name: [0, 3, 5, 2] for name in kinds}
    together.attached.train()
    losses = together.losses(rows, dict.fromkeys(kinds, 1), {n: e.rows for n, e in encoded.items()}, goals)
    together.attached.eval()
    for name in kinds:
        single = made((name,))
        for own, value in single.attached.parameters_of(name).items():
            value.data.copy_(together.attached.parameters_of(name)[own])
        single.attached.train()
        loss = single.losses({name: rows[name]}, {name: 1}, {name: encoded[name].rows}, {name: goals[name]})
        assert torch.allclose(loss[name], losses[name], atol=1e-6)
        one = single.logits(encoded[name].rows[:5], name, 1, Silent(), "one")
        all_of_them = together.logits(encoded[name].rows[:5], name, 5, Silent(), "all")
        assert torch.allclose(one, all_of_them, atol=1e-5)


@pytest.mark.parametrize("task", ["tagging", "spelling", "spans", "multi-span"])
def test_a_row_that_nothing_is_read_from_has_no_part_in_the_loss(task: str, tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = load(DataConfig(path=write(tmp_path / "rows.jsonl", ROWS[task](12))), task)
    problem = parse({}, task, data.labels)
    built = build(load_base(model), {"head": method_of("head", {})}, HeadConfig(), problem, {"head": 7})
    tiny.randomise_runs(built.attached)
    question = {"text_pair": "", "answer": ((0, 1),)}
    word = {"words": ((0, 1),), "answer": (0,), "meta": {"right": ["w"]}}
    unread = Example(" ", **(question if data.pair else word))

    def loss(examples: Sequence[Example]) -> float:
        encoded = built.encode(examples, "head", 24)
        return built.metrics(built.answer(encoded, "head", 4, Silent(), "asked"), encoded)["loss"]

    examples = data.splits["train"]
    assert loss([*examples, unread]) == pytest.approx(loss(examples), rel=1e-5)
    assert loss([unread]) == 0


def test_several_labels_are_merged_and_heads_that_plain_models_lack_are_not(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    for task in ("multilabel", "ordinal", "tagging"):
        data = {"path": write(tmp_path / f"{task}.jsonl", ROWS[task](30)), "split": {"train": 0.6, "validation": 0.4}}
        graftlm.fit(model=model, task=task, data=data, method="lora", out=tmp_path / task, training=SHORT)
    graftlm.merge(tmp_path / "multilabel", tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    for task in ("ordinal", "tagging"):
        with pytest.raises(graftlm.UserError, match=f"the head of {task} has no place in a plain sequence classifier"):
            graftlm.merge(tmp_path / task, tmp_path / "other")
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("task", ROWS)
def test_a_task_needs_no_validation(task: str, tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](12)), "split": {"train": 1.0}}
    model = saved(tiny.model("bert"), tmp_path / "base")
    run = graftlm.fit(model=model, task=task, data=data, method="lora", out=tmp_path / "run", training=SHORT)
    assert (run.stopped, dict(run.metrics)) == ("done", {})


@pytest.mark.parametrize("task", ROWS)
def test_a_task_that_was_killed_goes_on_to_the_same_bits(task: str, tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](40)), "split": {"train": 0.6, "validation": 0.4}}
    training = {**SHORT, "max_steps": 6, "eval_steps": 2, "save_steps": 1}
    given = {"model": model, "task": task, "data": data, "method": METHODS["lora"], "training": training}
    graftlm.fit(**given, out=tmp_path / "whole")
    with pytest.raises(Killed):
        graftlm.fit(**given, out=tmp_path / "killed", reporter=Killing(3))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")
