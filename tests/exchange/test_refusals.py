"""A PEFT folder that we cannot read whole is refused in a line that says why and what helps; nothing is written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import graftlm
import tiny
from folders import saved
from graftlm.checkpoint import load_peft
from graftlm.core.errors import UserError

Tensors = dict[str, torch.Tensor]
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny.model("bert"), tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def written(base: str, tmp_path: Path) -> Callable[[peft.PeftConfig], Path]:
    """What PEFT writes of a config."""

    def write(config: peft.PeftConfig) -> Path:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
        return tmp_path / "theirs"

    return write


def lora(**options: Any) -> peft.PeftConfig:
    return peft.LoraConfig(task_type="SEQ_CLS", **({"target_modules": ["query"]} | options))


def change(folder: Path, body: Mapping[str, Any], tensors: Callable[[Tensors], Tensors] | None = None) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | dict(body)))
    if tensors is not None:
        file = folder / "adapter_model.safetensors"
        save_file(tensors(load_file(file)), file)


def refused(folder: Path, said: str, **options: Any) -> None:
    out = folder.parent / "run"
    with pytest.raises(UserError, match=said) as found:
        graftlm.import_peft(folder, out, **options)
    assert "\n" not in str(found.value)
    assert not out.exists()


CONFIGS = [
    (
        lora(init_lora_weights="pissa_niter_4"),
        'init_lora_weights = "pissa_niter_4" .* path_initial_model_for_weight_conversion',
    ),
    (lora(init_lora_weights="pissa", use_dora=True), "changes the base's own weights"),
    (lora(trainable_token_indices=[3]), "trainable_token_indices"),
    (peft.LoHaConfig(task_type="SEQ_CLS", target_modules=["query"]), 'no peft_type that can be read "LOHA"'),
    (peft.OFTConfig(task_type="SEQ_CLS", target_modules=["query"], oft_block_size=4), 'can be read "OFT"; there is'),
    (peft.PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=3), "move the places that tagging reads"),
    (peft.PromptEncoderConfig(task_type="TOKEN_CLS", num_virtual_tokens=3), "tokens move the places that tagging"),
    (peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"]), "FEATURE_EXTRACTION, and a run is for"),
]


@pytest.mark.parametrize(("config", "said"), CONFIGS, ids=[said for _, said in CONFIGS])
def test_what_changes_results_and_has_no_place_here(
    config: peft.PeftConfig, said: str, written: Callable[[peft.PeftConfig], Path]
) -> None:
    refused(written(config), said)


def test_the_heads_kind_and_the_task_must_agree(written: Callable[[peft.PeftConfig], Path]) -> None:
    folder = written(peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query"]))
    refused(
        folder, "task = classification, but .* is an adapter for TOKEN_CLS, which is tagging", task="classification"
    )


@pytest.mark.parametrize(
    ("family", "kind", "load", "targets", "said"),
    [
        ("llama", "QUESTION_ANS", AutoModelForQuestionAnswering, ["q_proj"], "of llama that PEFT has for spans"),
        ("t5", "TOKEN_CLS", AutoModelForTokenClassification, ["q"], "of t5 that PEFT has for tagging"),
    ],
)
def test_a_class_that_is_not_known_is_refused_before_its_layers_are_looked_for(
    family: str, kind: str, load: Any, targets: list[str], said: str, tmp_path: Path
) -> None:
    base = load.from_pretrained(saved(tiny.model(family), tmp_path / "base"))
    config = peft.LoraConfig(task_type=kind, target_modules=targets)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "theirs")
    refused(tmp_path / "theirs", f"the class {said} is not known here; train it anew")


def without(*ends: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.endswith(ends)}


FILES: list[tuple[dict[str, Any], Callable[[Tensors], Tensors] | None, str]] = [
    ({"new_trick": 3}, None, "new_trick = 3 in adapter_config.json is not known here, and may change results"),
    ({"r": 4}, None, r"query has rank 8 in the file, but 4 in adapter_config\.json"),
    ({"target_modules": ["query", "key"]}, None, r"names bert.*key, but the file has no tensors for it"),
    ({"target_modules": ["value"]}, None, "but the file has|but the file has no"),
    ({}, without("0.attention.self.query.lora_B.weight"), "layer.0.attention.self.query lacks its up half"),
    ({}, without("query.lora_A.weight", "query.lora_B.weight"), "holds no lora_A and lora_B"),
    ({}, without("classifier.weight"), r"holds no classifier\.weight, without which it decides nothing"),
    (
        {"task_type": None},
        without("classifier.weight", "classifier.bias"),
        "no head at all; if it is for a model with an LM head, name --task generation",
    ),
    ({}, without("classifier.bias"), r"lacks classifier\.bias"),
    ({}, lambda t: t | {"x.y": torch.ones(2)}, r"holds x\.y, trained anew"),
    (
        {},
        lambda t: {k.replace("layer.1", "layer.7"): v for k, v in t.items()},
        r"acts on bert\.encoder\.layer\.7\.attention\.self\.query, which is no layer of this bert model",
    ),
    ({}, lambda t: t | {f"{QUERY}.lora_A.weight": torch.ones(8, 5)}, r"has shape \(8, 5\); \(8, 16\) is needed"),
    ({"base_model_name_or_path": None}, None, "does not say which model it is for; name it with --model"),
    ({"base_model_name_or_path": "./none"}, None, 'no model folder "./none"'),
]


@pytest.mark.parametrize(("body", "tensors", "said"), FILES, ids=[said for *_, said in FILES])
def test_a_file_that_does_not_fit_its_config_or_the_model(
    body: dict[str, Any],
    tensors: Callable[[Tensors], Tensors] | None,
    said: str,
    written: Callable[[peft.PeftConfig], Path],
) -> None:
    folder = written(lora())
    change(folder, body, tensors)
    refused(folder, said)


PROMPTS: list[tuple[dict[str, Any], Callable[[Tensors], Tensors] | None, str]] = [
    ({"num_virtual_tokens": 5}, None, "num_virtual_tokens = 5, but prompt_embeddings has 3 rows"),
    ({"num_transformer_submodules": 2}, None, "PREFIX_TUNING adapter for an encoder-decoder cannot be read"),
    ({"num_attention_heads": 4}, None, "num_attention_heads = 4; this bert model has 2"),
    ({}, lambda t: t | {"prompt_embeddings": torch.ones(3, 9)}, r"has shape \(3, 9\); this bert model takes \(3, 64\)"),
    ({}, without("prompt_embeddings"), "holds no prompt_embeddings .it holds base_model.classifier"),
]


@pytest.mark.parametrize(("body", "tensors", "said"), PROMPTS, ids=[said for *_, said in PROMPTS])
def test_a_prefix_that_does_not_fit(
    body: dict[str, Any],
    tensors: Callable[[Tensors], Tensors] | None,
    said: str,
    written: Callable[[peft.PeftConfig], Path],
) -> None:
    folder = written(peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    change(folder, body, tensors)
    refused(folder, said)


LABELS: list[tuple[dict[str, Any], str]] = [
    ({"labels": ("a", "b", "c")}, "3 names, but the head has 2 outputs"),
    ({"labels": ("a",)}, "1 names, but the head has 2 outputs"),
    ({"labels": ("a", "a")}, 'labels = a, a: "a" stands twice'),
    ({"task": "regression"}, "regression needs one output, but the adapter's head has 2"),
    ({"task": "regresion"}, 'did you mean "regression"'),
]


@pytest.mark.parametrize(("options", "said"), LABELS, ids=[said for _, said in LABELS])
def test_labels_and_tasks_that_do_not_fit_the_head(
    options: dict[str, Any], said: str, written: Callable[[peft.PeftConfig], Path]
) -> None:
    refused(written(lora()), said, **options)


def test_a_layer_that_was_saved_whole_is_refused_only_where_it_is_not_the_bases(
    written: Callable[[peft.PeftConfig], Path], tmp_path: Path
) -> None:
    folder = written(lora(modules_to_save=["LayerNorm"]))
    graftlm.import_peft(folder, tmp_path / "same")
    change(folder, {}, lambda t: {key: value + key.endswith("LayerNorm.bias") for key, value in t.items()})
    refused(folder, r"holds bert\.embeddings\.LayerNorm\.bias, trained anew .* merge it")


def test_a_folder_is_named_by_a_path_or_a_string(written: Callable[[peft.PeftConfig], Path]) -> None:
    folder = written(lora())
    assert load_peft(str(folder))[0] == load_peft(folder)[0]


def test_a_pickle_is_not_read(written: Callable[[peft.PeftConfig], Path]) -> None:
    folder = written(lora())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, "is a pickle, which could run code, and is not read; .* save_pretrained")


def test_a_folder_in_use_is_not_written_into(written: Callable[[peft.PeftConfig], Path], tmp_path: Path) -> None:
    folder = written(lora())
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="used is not empty; name another folder"):
        graftlm.import_peft(folder, tmp_path / "used")
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["notes.txt"]
