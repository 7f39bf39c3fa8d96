"""Our runs, written for PEFT and read by it: the same logits, or a refusal that names what PEFT has no words for."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import graftlm
import tiny
from folders import TEXTS, alone, rows, saved, write
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.reporter import Silent
from graftlm.methods import parse, peft_form
from graftlm.recipes.export import vllm_obstacles
from graftlm.sites import Sites
from graftlm.tasks import collate
from sealing import reseal

FUSED = ("gpt2", "gpt-neox", "phi3", "modernbert")


def texts(family: str) -> list[str]:
    """Encoder-decoders pool the token that ends a text."""
    return [f"{text} </s>" if family in tiny.ENCODER_DECODER else text for text in TEXTS]


def trained(family: str, folder: Path, method: dict[str, Any], **head: Any) -> Tensor:
    """A run of a few steps in `folder/run`, its base in `folder/base`, and its logits."""
    base = saved(tiny.model(family, pad_token_id=0), folder / "base")
    given = [row | {"text": f"{row['text']} </s>"} for row in rows(60)]
    data = {"path": write(folder / "rows.jsonl", given), "split": {"train": 0.6, "validation": 0.4}}
    training = {"max_steps": 5, "batch_size": 8, "learning_rate": 3e-2}
    graftlm.fit(model=base, data=data, method=method, out=folder / "run", training=training, head=head)
    return graftlm.load(folder / "run").logits([Example(text) for text in texts(family)])


def theirs(family: str, base: Path, adapter: Path) -> Tensor:
    names = {0: "a", 1: "b"}
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, id2label=names)
    return alone(peft.PeftModel.from_pretrained(plain, adapter).eval(), texts(family))


def check(family: str, folder: Path, method: dict[str, Any], **head: Any) -> None:
    expected = trained(family, folder, method, **head)
    assert (theirs(family, folder / "base", folder / "run/adapter") - expected).abs().max() < 1e-5
    graftlm.export_peft(folder / "run", folder / "out")
    assert (theirs(family, folder / "base", folder / "out") - expected).abs().max() < 1e-5


LORA = {"name": "lora", "rank": 2}


@pytest.mark.parametrize("family", [*FUSED, "t5", "bart"])
def test_peft_reads_queries_and_values(family: str, tmp_path: Path) -> None:
    check(family, tmp_path, LORA)


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(
    "options",
    [{"sites": "all-linear"}, {"dora": True}, {"rslora": True}, {"rank_pattern": {"attention.value": 3}}],
    ids=str,
)
def test_peft_reads_parts_of_fused_layers(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    check(family, tmp_path, LORA | options)


@pytest.mark.parametrize(
    "options",
    [{"init": "pissa"}, {"sites": ["embedding", "attention.query"]}, {"alpha_pattern": {"0.attention.query": 3.5}}],
    ids=str,
)
def test_peft_reads_loras_options(options: dict[str, Any], tmp_path: Path) -> None:
    check("bert", tmp_path, LORA | options)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("turn", [1, -1])
def test_peft_reads_a_union_of_lora_and_bitfit_in_either_order(turn: int, dora: bool, tmp_path: Path) -> None:
    parts = [LORA | {"dora": dora}, {"name": "bitfit"}][::turn]
    check("bert", tmp_path, {"name": "union", "parts": parts})


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "phi3", "t5"])
def test_peft_reads_ia3(family: str, tmp_path: Path) -> None:
    check(family, tmp_path, {"name": "ia3"})


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "gpt2", "llama"])
@pytest.mark.parametrize("method", ["prefix", "ptuning-v2", "prompt-tuning", "ptuning"])
def test_peft_reads_prefixes_and_prompts(family: str, method: str, tmp_path: Path) -> None:
    head = {"pooling": "virtual"} if method.startswith(("prompt", "ptuning")) and method != "ptuning-v2" else {}
    check(family, tmp_path, {"name": method, "length": 3}, **head)


def test_a_fused_layers_block_that_was_trained_beyond_is_refused_by_its_own_run(tmp_path: Path) -> None:
    trained("gpt2", tmp_path, LORA)
    file = tmp_path / "run/adapter/adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"][tiny.WIDTH, 0] = 1  # a row of the keys
    save_file(tensors, file, metadata={"format": "pt"})
    reseal(file.parent)
    with pytest.raises(UserError, match=r"h\.0\.attn\.c_attn was trained beyond attention\.query, attention\.value"):
        graftlm.load(tmp_path / "run")
    run = graftlm.import_peft(tmp_path / "run/adapter", tmp_path / "again", labels=("a", "b"))
    again = graftlm.load(run).logits([Example(text) for text in TEXTS])
    assert (theirs("gpt2", tmp_path / "base", tmp_path / "run/adapter") - again).abs().max() < 1e-5


def test_a_prompt_is_kept_from_the_pooling_where_peft_would_count_it(tmp_path: Path) -> None:
    """Ours reads the text's first token, PEFT's the prompt's; PEFT cannot say ours, so the run is in our layout."""
    trained("bert", tmp_path, {"name": "prompt-tuning", "length": 3})
    assert graftlm.load(tmp_path / "run").card.layout == "graftlm"
    with pytest.raises(UserError, match=r"virtual tokens when bert's head pools .*head\.pooling = virtual"):
        graftlm.export_peft(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("pooling", "place"), [("default", 3), ("virtual", 0)])
def test_the_pooled_token_is_the_texts_first_unless_virtual_ones_count(
    pooling: str, place: int, tmp_path: Path
) -> None:
    trained("bert", tmp_path, {"name": "prompt-tuning", "length": 3}, pooling=pooling)
    model = graftlm.load(tmp_path / "run").model
    features = model.encode([Example(TEXTS[0])], "run").rows
    found = model.logits(features, "run", 1, Silent(), "predict")
    batch = collate([(features[0], model.virtual["run"])], 0, torch.device("cpu"))
    own = model.attached.parameters_of("run")
    with torch.no_grad():
        hidden = model.attached(**batch).last_hidden_state[:, place]
        pooled = torch.tanh(model.attached.base.get_submodule("pooler.dense")(hidden))
        expected = pooled @ own["head.weight"].T + own["head.bias"]
    torch.testing.assert_close(found, expected)


NO_WORDS = [
    ("bert", {"name": "adapter"}, {}, "no words for adapter; it has them for lora"),
    ("bert", {"name": "bitfit"}, {}, "no words for bitfit"),
    ("bert", LORA, {"pooling": "mean"}, "no words for pooling = mean"),
    ("bert", {"name": "prefix", "length": 3, "position_shift": False}, {}, r"method\.position_shift = true"),
    ("t5", {"name": "prefix", "length": 3}, {}, "encoder-decoder's encoder"),
    ("mpnet", LORA, {}, '"mpnet" has no table'),
]


@pytest.mark.parametrize(("family", "method", "head", "said"), NO_WORDS, ids=[said for *_, said in NO_WORDS])
def test_what_peft_has_no_words_for_is_refused_by_name(
    family: str, method: dict[str, Any], head: dict[str, Any], said: str, tmp_path: Path
) -> None:
    trained(family, tmp_path, method, **head)
    with pytest.raises(UserError, match=said):
        graftlm.export_peft(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_keys_that_are_not_pefts_defaults_are_written(tmp_path: Path) -> None:
    trained("gpt2", tmp_path, LORA)
    body = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert body == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 32,
        "target_modules": ["c_attn"],
        "inference_mode": True,
        "fan_in_fan_out": True,
        "modules_to_save": ["score"],
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": str(tmp_path / "base"),
    }


def test_parts_of_a_fused_layer_are_blocks_of_one_exact_product() -> None:
    sites = Sites(tiny.model("gpt-neox"))
    config = parse("lora", {"rank": 2, "alpha": 3, "rank_pattern": {"attention.value": 5}})
    form = peft_form(config, sites)
    draw = torch.Generator().manual_seed(0)
    own = {
        f"{layer}.attention.{role}.{name}": torch.randn(shape, generator=draw)
        for layer in range(tiny.LAYERS)
        for role, rank in (("query", 2), ("value", 5))
        for name, shape in (("down", (rank, tiny.WIDTH)), ("up", (tiny.WIDTH, rank)))
    }
    written = form.write(own)
    path = "base_model.model.gpt_neox.layers.1.attention.query_key_value"
    scale = form.body["lora_alpha"] / form.body["r"]
    product = scale * written[f"{path}.lora_B.weight"] @ written[f"{path}.lora_A.weight"]
    by_head = product.unflatten(0, (2, 3, -1))  # heads, (query key value), width of a head
    for place, role, rank in ((0, "query", 2), (2, "value", 5)):
        name = f"1.attention.{role}"
        expected = 3 / rank * own[f"{name}.up"] @ own[f"{name}.down"]
        torch.testing.assert_close(by_head[:, place].flatten(0, 1), expected)
    assert not by_head[:, 1].any()
    again = form.read(written)
    for name, tensor in own.items():
        torch.testing.assert_close(again[name], tensor)


PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["query"]}
OBSTACLES = [
    ({}, []),
    ({"modules_to_save": ["score"]}, [r"before its pull request 53555 .* \(score\); take a later one, or .*merge"]),
    ({"modules_to_save": ["classifier", "pooler"]}, [r"modules_to_save \(classifier, pooler\) other than .*merge"]),
    ({"use_dora": True}, ["no DoRA; .*merge"]),
    ({"r": 20}, ["rank 20 is over its default of 16; start it with --max-lora-rank 32"]),
    ({"rank_pattern": {"a": 64}}, ["--max-lora-rank 64", "not by patterns"]),
    ({"bias": "all"}, ["no biases from an adapter"]),
    ({"target_modules": ["embed_tokens"]}, ["no LoRA on the embedding"]),
    ({"peft_type": "PREFIX_TUNING"}, ["LoRA alone, not PREFIX_TUNING; train with --method lora"]),
    ({"peft_type": "IA3"}, ["LoRA alone, not IA3; .*graftlm merge"]),
]


@pytest.mark.parametrize(("more", "said"), OBSTACLES, ids=[str(more) for more, _ in OBSTACLES])
def test_what_keeps_vllm_from_an_adapter_is_said_with_what_helps(more: dict[str, Any], said: list[str]) -> None:
    found = vllm_obstacles(PLAIN | more)
    assert len(found) == len(said)
    assert all(re.search(wanted, line) for wanted, line in zip(said, found, strict=True))
