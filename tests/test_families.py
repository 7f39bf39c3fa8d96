"""The main job on tiny models of other families, with PEFT and plain Transformers as the judges."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertModel

import graftlm
import tiny
from folders import TEXTS, alone, rows, saved, write
from graftlm.core.errors import UserError
from graftlm.core.example import Example


def trained(model: str, tmp_path: Path) -> Tensor:
    """Logits of a LoRA run of a few steps."""
    data = {"path": write(tmp_path / "rows.jsonl", rows(60)), "split": {"train": 0.6, "validation": 0.4}}
    training = {"max_steps": 5, "batch_size": 8, "learning_rate": 1e-2}
    method = {"name": "lora", "sites": "all-linear", "rank": 3}
    graftlm.fit(model=model, data=data, method=method, out=tmp_path / "run", training=training)
    return graftlm.load(tmp_path / "run").logits([Example(text) for text in TEXTS])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert", "llama", "qwen3"])
def test_peft_and_plain_transformers_give_the_logits_of_a_run(family: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family, pad_token_id=0), tmp_path / "base")
    expected = trained(model, tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2, pad_token_id=0)
    peft = PeftModel.from_pretrained(plain, tmp_path / "run/adapter").eval()
    assert (alone(peft) - expected).abs().max() < 1e-5
    graftlm.merge(tmp_path / "run", tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert (alone(merged) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "phi3", "opt", "modernbert"])
def test_plain_transformers_gives_the_logits_of_a_merged_run_whose_layers_are_fused(
    family: str, tmp_path: Path
) -> None:
    model = saved(tiny.model(family, pad_token_id=0), tmp_path / "base")
    expected = trained(model, tmp_path)
    graftlm.merge(tmp_path / "run", tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert (alone(merged) - expected).abs().max() < 1e-4


def test_strength_scales_what_a_run_adds(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    whole = trained(model, tmp_path)
    examples = [Example(text) for text in TEXTS]
    assert torch.equal(graftlm.load(tmp_path / "run", strength=1.0).logits(examples), whole)
    for strength in (0.0, 0.5):
        found = graftlm.load(tmp_path / "run", strength=strength).logits(examples)
        less = graftlm.load(tmp_path / "run")
        for name, tensor in less.model.attached.parameters_of("run").items():
            if name.endswith(".up"):
                tensor.data.mul_(strength)  # LoRA's change is linear in it
        assert torch.allclose(found, less.logits(examples), atol=1e-6)
        assert not torch.allclose(found, whole, atol=1e-4)
    with pytest.raises(UserError, match="strength = nan is not finite"):
        graftlm.load(tmp_path / "run", strength=float("nan"))


def test_a_run_that_adds_nothing_to_layers_has_no_strength(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(40)), "split": {"train": 0.6, "validation": 0.4}}
    graftlm.fit(model=model, data=data, method="prefix", out=tmp_path / "run", training={"max_steps": 1})
    with pytest.raises(UserError, match="has no strength: a prefix cannot be scaled"):
        graftlm.load(tmp_path / "run", strength=0.5)


def test_checkpointing_is_refused_where_the_family_has_none(tmp_path: Path) -> None:
    model = saved(tiny.model("albert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(40)), "split": {"train": 0.6, "validation": 0.4}}
    with pytest.raises(UserError, match='gradient_checkpointing = true, but Transformers has none for "albert"'):
        graftlm.fit(model=model, data=data, out=tmp_path / "run", training={"gradient_checkpointing": True})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_is_trained_and_answers_the_same_when_loaded(family: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family), tmp_path / "base")
    expected = trained(model, tmp_path)
    again = graftlm.load(tmp_path / "run").logits([Example(text) for text in reversed(TEXTS)])
    assert torch.allclose(again.flip(0), expected, atol=1e-6)


def test_a_pooler_that_the_checkpoint_lacks_is_trained_stored_and_read_by_peft(tmp_path: Path) -> None:
    whole = tiny.model("bert")
    bare = BertModel(whole.config, add_pooling_layer=False)
    bare.load_state_dict(whole.state_dict(), strict=False)
    model = saved(bare, tmp_path / "base")
    expected = trained(model, tmp_path)
    record = json.loads((tmp_path / "run/run.json").read_text())
    width = whole.config.hidden_size
    assert record["parameters"]["head"] == width * width + width + 2 * width + 2
    plain = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    peft = PeftModel.from_pretrained(plain, tmp_path / "run/adapter").eval()
    assert (alone(peft) - expected).abs().max() < 1e-5


def test_a_file_that_was_cut_is_evaluated_on_the_rows_that_were_not_trained_on(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    file = write(tmp_path / "rows.jsonl", rows(50))
    data = {"path": file, "split": {"train": 0.6, "validation": 0.2, "test": 0.2}}
    graftlm.fit(model=model, data=data, method="head", out=tmp_path / "run", training={"max_steps": 2})
    assert graftlm.evaluate(tmp_path / "run", file, "test").examples == 10
    moved = Path(file).rename(tmp_path / "renamed.jsonl")
    assert graftlm.evaluate(tmp_path / "run", str(moved), "test").examples == 10
    other = write(tmp_path / "others.jsonl", rows(31))
    assert graftlm.evaluate(tmp_path / "run", other, "test").examples == 31


SHIFTING = [("prefix", {}), ("ptuning-v2", {}), ("prompt-tuning", {}), ("prompt-tuning", {"position_shift": False})]
LEFT = 8  # the fewest positions that a text is left


def _shifted(model: str, folder: Path, method: dict[str, object]) -> None:
    long = [row | {"text": " ".join(["w1 w2 w3"] * 20)} for row in rows(20)]
    data = {"path": write(folder / "rows.jsonl", long), "split": {"train": 0.6, "validation": 0.4}}
    training = {"max_steps": 1, "batch_size": 2}
    graftlm.fit(model=model, data=data, method=method, out=folder / "run", training=training)


@pytest.mark.parametrize(("method", "options"), SHIFTING)
@pytest.mark.parametrize("family", ["bert", "roberta", "opt", "gpt2", "bart"])
def test_virtual_tokens_that_leave_the_text_too_few_positions_are_refused_before_training(
    family: str, method: str, options: dict[str, object], tmp_path: Path
) -> None:
    """BART's encoder and decoder count positions each for itself, so its two prefixes are not added up."""
    model = saved(tiny.model(family), tmp_path / "base")
    length = tiny.POSITIONS + 1 if options else tiny.POSITIONS - LEFT + 1
    reason = rf'run "run" puts {length} virtual tokens before the text, but .* has {tiny.POSITIONS} positions'
    with pytest.raises(UserError, match=reason):
        _shifted(model, tmp_path, {"name": method, "length": length} | options)


@pytest.mark.parametrize(("method", "options"), SHIFTING)
@pytest.mark.parametrize("family", ["bert", "opt", "gpt2"])
def test_the_text_is_cut_to_the_positions_that_virtual_tokens_leave(
    family: str, method: str, options: dict[str, object], tmp_path: Path
) -> None:
    model = saved(tiny.model(family), tmp_path / "base")
    length = tiny.POSITIONS if options else tiny.POSITIONS - LEFT
    _shifted(model, tmp_path, {"name": method, "length": length} | options)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "prefix", "length": 5, "hidden": 8, "init": "text", "text": "w3 w4"},
        {"name": "prefix", "length": 2, "reparametrisation": "none", "init": "text", "text": "w3 w4"},
        {"name": "ptuning-v2", "length": 3},
        {"name": "ptuning", "length": 3},
        {"name": "instance-prompt", "length": 2, "bottleneck": 4},
    ],
    ids=lambda method: f"{method['name']}-{method.get('init', '')}",
)
@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "llama"])
def test_a_stored_run_with_virtual_tokens_has_the_metrics_that_it_had_when_it_was_trained(
    family: str, method: dict[str, object], tmp_path: Path
) -> None:
    model = saved(tiny.model(family), tmp_path / "base")
    file = write(tmp_path / "rows.jsonl", rows(60))
    data = {"path": file, "split": {"train": 0.6, "validation": 0.4}}
    training = {"max_steps": 3, "batch_size": 8}
    graftlm.fit(model=model, data=data, method=method, out=tmp_path / "run", training=training)
    trained = json.loads((tmp_path / "run/metrics.json").read_text())["metrics"]
    assert graftlm.evaluate(tmp_path / "run", file, "validation").metrics == pytest.approx(trained, abs=1e-6)
