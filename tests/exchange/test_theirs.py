"""What PEFT wrote after a few steps of its own training, read by us and written again for PEFT: the same logits."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import graftlm
import tiny
from folders import TEXTS, WORDS, alone, saved
from graftlm.checkpoint import load_peft
from graftlm.core.errors import UserError
from graftlm.core.reporter import Silent
from graftlm.methods import attach, from_peft, peft_form
from graftlm.sites import Attached, Sites
from graftlm.tasks import Features

PAIRS = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "electra": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "gpt2": ["c_attn"],
    "gpt-neox": ["query_key_value"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
}
EMBEDDING = {"bert": "word_embeddings", "gpt2": "wte", "llama": "embed_tokens"}
SCALED = {
    "bert": (["key", "value", r"intermediate.dense"], []),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "t5": (["k", "v", "wo"], ["wo"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
}
PROMPTED = ("bert", "roberta", "electra", "gpt2", "llama")
GENERATION = {"prompt": "{text} is", "max_new_tokens": 5}
OWN_HEAD = {"t5": ["classification_head"], "bart": ["classification_head"], "modernbert": ["head"]}


def lora(family: str, **options: Any) -> peft.PeftConfig:
    options = {"r": 3, "lora_alpha": 5, "target_modules": PAIRS[family]} | options
    options |= {"fan_in_fan_out": family == "gpt2", "modules_to_save": OWN_HEAD.get(family)}
    return peft.LoraConfig(task_type="SEQ_CLS", **options)


def ia3(family: str) -> peft.PeftConfig:
    targets, inward = SCALED[family]
    return peft.IA3Config(
        task_type="SEQ_CLS",
        target_modules=targets,
        feedforward_modules=inward,
        fan_in_fan_out=family == "gpt2",
        modules_to_save=OWN_HEAD.get(family),
    )


def prompts(family: str, kind: str) -> peft.PeftConfig:
    width = {"token_dim": 12} if family == "electra" else {}  # PEFT takes the hidden size, which ELECTRA's words lack
    if kind == "prompt":
        return peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3, **width)
    if kind == "p-tuning":
        return peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8, **width)
    return peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)


class Lines(Silent):
    """What a job says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


def plain(base: str) -> nn.Module:
    names = {0: "a", 1: "b"}
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, id2label=names).eval()


def texts(family: str) -> list[str]:
    """Encoder-decoders pool the token that ends a text."""
    return [f"{text} </s>" if family in tiny.ENCODER_DECODER else text for text in TEXTS]


def made(family: str, config: peft.PeftConfig, folder: Path, *, lm: bool = False) -> Tensor:
    """A base in `folder/base`, PEFT's adapter in `folder/theirs` after a few steps, and its logits."""
    base = saved(tiny.model(family, lm=lm), folder / "base")
    torch.manual_seed(0)
    model = peft.get_peft_model(plain(base), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(3):
        for row, text in enumerate(texts(family)):
            ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
            mask = torch.ones_like(ids)
            model(input_ids=ids, attention_mask=mask, labels=torch.tensor([row % 2])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder / "theirs")
    return alone(model, texts(family))


def ours(family: str, folder: Path) -> Tensor:
    """All texts in one padded batch, as runs are asked; Qwen2's own tokenizer would not read these words."""
    rows = [Features([WORDS.index(word) for word in text.split()], None) for text in texts(family)]
    return graftlm.load(folder).model.logits(rows, "run", 64, Silent(), "predict")


def check(
    family: str, config: peft.PeftConfig, folder: Path, method: Mapping[str, Any] | None = None, *, lm: bool = False
) -> None:
    expected = made(family, config, folder, lm=lm)
    run = graftlm.import_peft(folder / "theirs", folder / "run", labels=("a", "b"))
    assert (ours(family, run) - expected).abs().max() < 1e-5
    stored = graftlm.load(run).card.method
    assert {name: stored[name] for name in method or ()} == dict(method or {})
    graftlm.export_peft(run, folder / "again")
    model = peft.PeftModel.from_pretrained(plain(str(folder / "base")), folder / "again").eval()
    assert (alone(model, texts(family)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "task", "labels", "outputs"),
    [("TOKEN_CLS", "tagging", ("B-x", "I-x", "O"), 3), ("QUESTION_ANS", "spans", (), 2)],
)
@pytest.mark.parametrize(
    ("family", "method"),
    [("bert", "lora"), ("roberta", "lora"), ("distilbert", "lora"), ("bert", "prefix"), ("gpt2", "prefix")],
)
def test_a_head_of_tokens_is_read_and_written_with_the_same_logits(
    family: str, method: str, kind: str, task: str, labels: tuple[str, ...], outputs: int, tmp_path: Path
) -> None:
    base = saved(tiny.model(family), tmp_path / "base")
    make = {"tagging": AutoModelForTokenClassification, "spans": AutoModelForQuestionAnswering}[task]
    targets = [*PAIRS[family], "lin1" if family == "distilbert" else "dense"]
    config: Any = peft.LoraConfig(task_type=kind, r=3, target_modules=targets)
    if method == "prefix":
        config = peft.PrefixTuningConfig(task_type=kind, num_virtual_tokens=3)
    torch.manual_seed(0)
    theirs = shaken(peft.get_peft_model(make.from_pretrained(base, num_labels=outputs), config))
    theirs.save_pretrained(tmp_path / "theirs")
    run = graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", labels=labels)
    assert graftlm.load(run).card.task == task
    ids = torch.tensor([[WORDS.index(word) for word in TEXTS[0].split()]])
    graftlm.export_peft(run, tmp_path / "again")
    plain_base = make.from_pretrained(base, num_labels=outputs)
    again = peft.PeftModel.from_pretrained(plain_base, tmp_path / "again").eval()
    rows = [Features(ids[0].tolist(), None, list(range(ids.shape[1])))]
    with torch.no_grad():
        expected, written = (
            torch.stack([found.start_logits, found.end_logits], -1) if task == "spans" else found.logits
            for found in (theirs(input_ids=ids), again(input_ids=ids))
        )
    own = graftlm.load(run).model.logits(rows, "run", 64, Silent(), "predict")
    assert (own.reshape(expected[0].shape) - expected[0]).abs().max() < 1e-5
    assert (written - expected).abs().max() < 1e-5


@pytest.mark.parametrize("targets", [["query", "key", "value", "dense"], ".*dense"])
def test_a_pooler_that_their_class_lacks_is_not_missed(targets: Any, tmp_path: Path) -> None:
    """RobertaForSequenceClassification has no pooler, which AutoModel has."""
    check("roberta", lora("roberta", target_modules=targets), tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_in_the_base_is_found_in_fp32_though_the_file_is_in_bf16(start: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=PAIRS["llama"], init_lora_weights=start, r=3)
    base = tiny.model("llama", lm=True)
    theirs = shaken(peft.get_peft_model(copy.deepcopy(base), config))
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(file).items()}, file)
    ids = torch.tensor([tiny.texts(1)[0]])
    with torch.no_grad():
        again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "theirs").eval()
        expected = again(input_ids=ids).logits
        found = from_peft(*load_peft(tmp_path / "theirs"), Sites(base))
        attached = attach(base, {"run": found.config})
        attached.load("run", found.tensors)
        assert (tiny.outputs(attached, ["run"], [ids[0].tolist()])[0] - expected[0]).abs().max() < 1e-5


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["embed_tokens", "lm_head"]])
def test_both_sides_of_a_tied_embedding_are_read(targets: list[str], tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets, ensure_weight_tying=True)
    base = tiny.model("llama", lm=True, tie_word_embeddings=True)
    theirs = shaken(peft.get_peft_model(copy.deepcopy(base), config))
    theirs.save_pretrained(tmp_path / "theirs")
    ids = torch.tensor([tiny.texts(1)[0]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        found = from_peft(*load_peft(tmp_path / "theirs"), Sites(base))
        attached = attach(base, {"run": found.config})
        attached.load("run", found.tensors)
        assert (tiny.outputs(attached, ["run"], [ids[0].tolist()])[0] - expected[0]).abs().max() < 1e-5


@pytest.mark.parametrize("family", PAIRS)
def test_lora_is_read_and_written_with_the_same_logits(family: str, tmp_path: Path) -> None:
    check(family, lora(family), tmp_path, {"name": "lora", "rank": 3, "alpha": 5})


BIASED = [family for family in PAIRS if family not in ("modernbert", "llama", "phi3", "t5")]


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("family", BIASED)
def test_lora_with_biases_is_a_union_read_and_written_with_the_same_logits(
    family: str, bias: str, tmp_path: Path
) -> None:
    check(family, lora(family, bias=bias), tmp_path, {"name": "union", "gates": False})
    parts = graftlm.load(tmp_path / "run").card.method["parts"]
    assert [part["name"] for part in parts] == ["lora", "bitfit"]
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["bias"] == bias


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_dora_with_biases_is_read_and_written_with_the_same_logits(bias: str, tmp_path: Path) -> None:
    check("bert", lora("bert", bias=bias, use_dora=True), tmp_path, {"name": "union"})


def test_a_pooler_that_was_saved_whole_keeps_its_bias_among_all(tmp_path: Path) -> None:
    """The masked language model has no pooler, so PEFT trains one from nothing."""
    config = lora("bert", bias="all")
    config.modules_to_save = ["classifier", "pooler"]
    check("bert", config, tmp_path, {"name": "union"}, lm=True)
    assert graftlm.load(tmp_path / "run").card.method["parts"][1]["sites"] == "all"
    again = graftlm.import_peft(tmp_path / "again", tmp_path / "ours", labels=("a", "b"))
    assert torch.equal(ours("bert", again), ours("bert", tmp_path / "run"))


def test_a_bias_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    made("bert", lora("bert", bias="all"), tmp_path)
    path = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the file has no bias of encoder\.layer\.1\.output\.dense"):
        graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", labels=("a", "b"))
    assert not (tmp_path / "run").exists()


LORAS = {
    "rslora": ({"use_rslora": True}, {"rslora": True}),
    "dora": ({"use_dora": True}, {"dora": True}),
    "patterns": (
        {"rank_pattern": {"layer.0.attention.self.query": 2}, "alpha_pattern": {"value": 7}},
        {"rank": 3, "alpha": 5},
    ),
    "regex": ({"target_modules": r".*layer\.1\..*(key|intermediate\.dense)"}, {}),
    "all-linear": ({"target_modules": "all-linear"}, {}),
    "some layers": ({"layers_to_transform": [1], "layers_pattern": "layer"}, {}),
    "but for": ({"exclude_modules": ["0.attention.self.query"]}, {}),
    "embedding": ({"target_modules": ["word_embeddings", "query"]}, {"sites": ["embedding", "attention.query"]}),
    "dropout": ({"lora_dropout": 0.1}, {"dropout": 0.1}),
    "pissa": ({"init_lora_weights": "pissa"}, {"rank": 6, "alpha": 10}),
    "olora": (
        {"init_lora_weights": "olora", "use_rslora": True, "rank_pattern": {"value": 2}},
        {"rank": 6, "rslora": True},
    ),
    "orthogonal": ({"init_lora_weights": "orthogonal", "r": 4}, {"rank": 4}),
    "lora_bias": ({"lora_bias": True}, {"name": "union"}),
    "lora_bias and biases": ({"lora_bias": True, "bias": "all"}, {"name": "union"}),
    "whole paths are not bound to layers": (
        {
            "target_modules": ["bert.encoder.layer.0.attention.self.query", "value"],
            "layers_to_transform": [1],
            "layers_pattern": "layer",
        },
        {},
    ),
}


@pytest.mark.parametrize("name", LORAS)
def test_each_option_of_lora_is_read_and_written(name: str, tmp_path: Path) -> None:
    options, method = LORAS[name]
    check("bert", lora("bert", **options), tmp_path, method)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": "all-linear"}])
def test_decoders_options_of_lora_are_read_and_written(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    check(family, lora(family, **options), tmp_path)


@pytest.mark.parametrize("family", EMBEDDING)
def test_lora_on_the_embedding_is_read_though_peft_stores_the_base_beside_it(family: str, tmp_path: Path) -> None:
    check(family, lora(family, target_modules=[EMBEDDING[family]]), tmp_path, {"sites": ["embedding"]})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lora_on_the_embedding_of_a_base_read_in_half_precision_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    """PEFT stores the base's words as it read them, rounded."""
    base = saved(tiny.model("llama", lm=True), tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"])
    theirs = shaken(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), config))
    theirs.save_pretrained(tmp_path / "theirs")
    run = graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", options=GENERATION)
    assert graftlm.load(run).card.method["sites"] == ["embedding"]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_a_model_that_has_none_are_none(family: str, bias: str, tmp_path: Path) -> None:
    check(family, lora(family, bias=bias), tmp_path, {"name": "lora"})


def test_pissas_start_is_found_again_in_a_transposed_layer(tmp_path: Path) -> None:
    check("gpt2", lora("gpt2", init_lora_weights="pissa"), tmp_path, {"rank": 6, "alpha": 10})


@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", ["lm_head", "q_proj"]), ("gpt2", ["lm_head"]), ("bart", ["lm_head", "q_proj"]), ("t5", ["lm_head"])],
)
def test_lora_on_the_lm_head_is_read(family: str, targets: list[str], tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=targets, fan_in_fan_out=family == "gpt2")
    theirs = shaken(peft.get_peft_model(tiny.model(family, lm=True), config))
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    expected = plainly(theirs, rows := tiny.texts(3))
    found = attached(tiny.model(family, lm=True), tmp_path / "theirs")
    for one, other in zip(tiny.outputs(found, ["theirs"] * 3, rows), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_ia3_on_the_lm_head_is_read(tmp_path: Path) -> None:
    """PEFT stores the base's LM head beside it."""
    base = saved(tiny.model("llama", lm=True), tmp_path / "base")
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["lm_head", "k_proj"], feedforward_modules=[])
    theirs = shaken(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config))
    theirs.save_pretrained(tmp_path / "theirs")
    run = graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", options=GENERATION)
    found = graftlm.load(run).model.forward({"run": [Features([4, 9, 5, 7], None, answer=[20, 31, 2])]})[0]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[4, 9, 5, 7, 20, 31]])).logits[0, -3:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def plainly(model: Any, rows: list[list[int]]) -> list[Tensor]:
    """PEFT's logits at each row's own tokens, one row at a time."""
    with torch.no_grad():
        return [model(**tiny.batch_of(model.get_base_model(), [row])).logits[0, -len(row) :] for row in rows]


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in ("gemma", "t5", "bart") for k in ("prompt", "p-tuning")])
def test_prompts_of_encoder_decoders_and_of_scaled_words_are_read_and_written(
    family: str, kind: str, tmp_path: Path
) -> None:
    """PEFT keeps 2 L rows for an encoder-decoder, of which the first L stand in front of the encoder's text."""
    task = "SEQ_2_SEQ_LM" if family in tiny.ENCODER_DECODER else "CAUSAL_LM"
    made: Any = {"prompt": peft.PromptTuningConfig, "p-tuning": peft.PromptEncoderConfig}[kind]
    theirs = shaken(peft.get_peft_model(tiny.model(family, lm=True), made(task_type=task, num_virtual_tokens=3)))
    theirs.save_pretrained(tmp_path / "theirs")
    expected = plainly(theirs, rows := tiny.texts(3))
    found = attached(tiny.model(family, lm=True), tmp_path / "theirs")
    for one, other in zip(tiny.outputs(found, ["theirs"] * 3, rows), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    body, tensors = load_peft(tmp_path / "theirs")
    read = from_peft(body, tensors, Sites(tiny.model(family, lm=True)))
    form = peft_form(read.config, Sites(tiny.model(family, lm=True)))
    (tmp_path / "again").mkdir()
    save_file(form.write(read.tensors), tmp_path / "again/adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "again/adapter_config.json").write_text(json.dumps({**form.body, "task_type": task}))
    again = peft.PeftModel.from_pretrained(tiny.model(family, lm=True), tmp_path / "again").eval()
    for one, other in zip(plainly(again, rows), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


ODD = {
    "peft's default for bert": ("bert", {"target_modules": None, "feedforward_modules": None}),
    "no input": ("gpt2", {"feedforward_modules": []}),
    "queries' inputs": ("llama", {"target_modules": ["q_proj", "v_proj"], "feedforward_modules": ["q_proj"]}),
    "by a regex": ("t5", {"target_modules": r".*\.(k|wo)", "feedforward_modules": r".*block\.0.*\.(k|wo)"}),
}


@pytest.mark.parametrize("name", ODD)
def test_ia3_may_scale_the_inputs_of_any_layers(name: str, tmp_path: Path) -> None:
    family, options = ODD[name]
    config = peft.IA3Config(
        task_type="SEQ_CLS",
        fan_in_fan_out=family == "gpt2",
        modules_to_save=OWN_HEAD.get(family),
        **({"target_modules": SCALED[family][0]} | options),
    )
    check(family, config, tmp_path, {"name": "ia3"})


@pytest.mark.parametrize("family", SCALED)
def test_ia3_is_read_and_written_with_the_same_logits(family: str, tmp_path: Path) -> None:
    check(family, ia3(family), tmp_path, {"name": "ia3"})


@pytest.mark.parametrize("family", PROMPTED)
@pytest.mark.parametrize(("kind", "name"), [("prompt", "prompt-tuning"), ("p-tuning", "ptuning"), ("prefix", "prefix")])
def test_prompts_and_prefixes_are_read_and_written(family: str, kind: str, name: str, tmp_path: Path) -> None:
    check(family, prompts(family, kind), tmp_path, {"name": name, "length": 3})


def test_where_a_prefix_leaves_the_window_is_said_at_import_and_at_export(tmp_path: Path) -> None:
    base = saved(tiny.model("mistral", lm=True), tmp_path / "base")  # its window is 4
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    theirs = shaken(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config))
    theirs.save_pretrained(tmp_path / "theirs")
    lines = Lines()
    run = graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", options=GENERATION, reporter=lines)
    graftlm.export_peft(run, tmp_path / "again", lines)
    said = "mistral looks back over 4 tokens at most: in PEFT a text's first 2 see the whole prefix of 2, here every"
    assert [line.startswith(said) for line in lines.said].count(True) == 2
    row = [4, 9, 5, 7]
    found = graftlm.load(run).model.forward({"run": [Features(row[:1], None, answer=[*row[1:], 2])]})[0]
    with torch.no_grad():
        different = (theirs(input_ids=torch.tensor([row])).logits[0] - found).abs().amax(-1) > 1e-5
    assert different.tolist() == [False, False, True, True]


def attached(model: nn.Module, folder: Path) -> Attached:
    """A PEFT adapter without a classifier on a model of the user's own."""
    body, tensors = load_peft(folder)
    theirs = from_peft(body, tensors, Sites(model))
    assert not theirs.rest
    found = attach(model, {"theirs": theirs.config})
    found.load("theirs", theirs.tensors)
    return found


def shaken(model: nn.Module) -> nn.Module:
    """Every trained tensor moved from its start."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


WHOLE = {
    "lora": lambda task: peft.LoraConfig(task_type=task, target_modules="all-linear"),
    "dora": lambda task: peft.LoraConfig(task_type=task, target_modules="all-linear", use_dora=True),
    "prefix": lambda task: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3),
    "prompt": lambda task: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=3),
}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "phi3"])
@pytest.mark.parametrize("kind", WHOLE)
def test_an_adapter_of_a_causal_model_gives_its_logits_on_it(family: str, kind: str, tmp_path: Path) -> None:
    theirs = shaken(peft.get_peft_model(tiny.model(family, lm=True), WHOLE[kind]("CAUSAL_LM")))
    theirs.save_pretrained(tmp_path / "theirs")
    row = tiny.texts(1)[0]
    with torch.no_grad():
        expected = theirs(**tiny.padded([row])).logits[0, -len(row) :]
    found = attached(tiny.model(family, lm=True), tmp_path / "theirs")
    torch.testing.assert_close(tiny.outputs(found, ["theirs"], [row])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "kind"), [("llama", "LORA"), ("gpt2", "PREFIX_TUNING"), ("t5", "LORA")])
def test_an_adapter_of_a_language_model_becomes_a_run_that_writes(family: str, kind: str, tmp_path: Path) -> None:
    base = saved(tiny.model(family, lm=True), tmp_path / "base")
    both = family in tiny.ENCODER_DECODER
    load: Any = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
    kinds = {"LORA": peft.LoraConfig, "PREFIX_TUNING": peft.PrefixTuningConfig}
    options = {"target_modules": PAIRS[family]} if kind == "LORA" else {"num_virtual_tokens": 3}
    config = kinds[kind](task_type="SEQ_2_SEQ_LM" if both else "CAUSAL_LM", **options)
    theirs = shaken(peft.get_peft_model(load.from_pretrained(base).eval(), config)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    run = graftlm.import_peft(tmp_path / "theirs", tmp_path / "run", options=GENERATION)
    predictor = graftlm.load(run)
    found = predictor.model.forward({"run": [Features([4, 9, 5, 7], None, answer=[20, 31, 2])]})[0]
    decoder = {"decoder_input_ids": torch.tensor([[0, 20, 31]])} if both else {}
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([[4, 9, 5, 7] + [20, 31] * (not both)]), **decoder).logits[0, -3:]
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)
    assert len(predictor.predict([TEXTS[0]])) == 1
    graftlm.export_peft(run, tmp_path / "again")
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["task_type"] == config.task_type


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "t5"])
def test_an_adapter_of_a_bare_backbone_is_read_for_one_and_for_a_model_with_a_head(family: str, tmp_path: Path) -> None:
    """PEFT's FEATURE_EXTRACTION leaves the family's prefix out of its paths."""
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=PAIRS[family])
    theirs = shaken(peft.get_peft_model(tiny.model(family), config))
    theirs.save_pretrained(tmp_path / "theirs")
    rows = tiny.texts(3)
    batch = tiny.batch_of(theirs.get_base_model(), rows)
    with torch.no_grad():
        hidden = theirs(**batch).last_hidden_state
    expected = [hidden[place][real] for place, real in enumerate(tiny.real_of(batch))]
    found = tiny.outputs(attached(tiny.model(family), tmp_path / "theirs"), ["theirs"] * 3, rows)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    on_lm = attached(tiny.model(family, lm=True), tmp_path / "theirs")
    assert set(on_lm.parameters_of("theirs")) == set(
        attached(tiny.model(family), tmp_path / "theirs").parameters_of("theirs")
    )
