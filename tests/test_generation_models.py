"""Models that do more around their LM head than most, or whose generation config does, and those that are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertGenerationConfig,
    BertGenerationDecoder,
    Gemma2Config,
    Gemma2ForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)
from transformers.modeling_outputs import CausalLMOutput

import graftlm
import tiny
from folders import saved
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.core.reporter import Silent
from graftlm.tasks import Features
from test_generation import made


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_a_soft_cap_that_small_logits_do_not_reach_is_in_the_loss(family: str, tmp_path: Path) -> None:
    """Known by the config, or for a family that keeps it elsewhere by what becomes of large states."""
    config = Gemma2Config(**tiny.HIDDEN, vocab_size=tiny.VOCABULARY, head_dim=8, num_key_value_heads=1)
    plain = Gemma2ForCausalLM(config) if family == "gemma2" else tiny.model("gpt2", lm=True)
    model = made(family, ("lora",), Path(saved(plain, tmp_path / "base")))
    model.attached.disabled()
    base = model.attached.base
    if family == "gpt2":
        base.lm_head.weight.data.mul_(1e-2)
        base.register_forward_hook(lambda module, args, out: CausalLMOutput(logits=30 * (out.logits / 30).tanh()))
    row = Features([4, 9, 5, 7], None, answer=[20, 31, 2])
    for factor in (1, 3000):
        base.get_output_embeddings().weight.data.mul_(factor)
        found = float(model.speaker.losses([(row, [])], 1))
        logits = base(input_ids=torch.tensor([[4, 9, 5, 7, 20, 31]])).logits[0, -3:]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer))
        assert found == pytest.approx(float(expected.detach()), abs=1e-4)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("bart", {"forced_bos_token_id": 17}),
    ("bart", {"repetition_penalty": 1.8}),
    ("gpt2", {"no_repeat_ngram_size": 1}),
    ("t5", {"bad_words_ids": [[56], [1, 1]], "suppress_tokens": [20, 21]}),
]


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_texts_are_under_what_the_models_own_generation_config_asks(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = tiny.model(family, lm=True)
    for name, value in {**settings, "num_beams": 2, "min_length": 30}.items():
        setattr(plain.generation_config, name, value)
    model = made(family, ("lora",), Path(saved(plain, tmp_path / "base")))
    own = model.attached.base.generation_config.to_dict()
    encoded = model.encode([Example("w5 w6 w9"), Example("w2 w8 w2")], "lora")
    found = model.answer(encoded, "lora", 1, Silent(), "").texts
    assert model.attached.base.generation_config.to_dict() == own
    given: dict[str, Any] = {"max_new_tokens": 6, "min_length": 0, "num_beams": 1, "eos_token_id": 2}
    for row, (text,) in zip(encoded.rows, found, strict=True):
        start = 1 if family in tiny.ENCODER_DECODER else len(row.ids)
        out = model.attached.base.generate(input_ids=torch.tensor([row.ids]), pad_token_id=0, **given)[0, start:]
        assert text == model.base.tokenizer.decode(out, skip_special_tokens=True).strip()
    for name in settings:
        setattr(model.attached.base.generation_config, name, None)
    assert model.answer(encoded, "lora", 1, Silent(), "").texts != found


H: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "d_model": 16, "pad_token_id": 1, "eos_token_id": 2}
BOTH = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
UNFIT = [
    (XLNetLMHeadModel, XLNetConfig(**H, n_layer=1, n_head=2, d_inner=24), "of type xlnet, whose words see those"),
    (BertGenerationDecoder, BertGenerationConfig(**tiny.HIDDEN, vocab_size=60), "which without is_decoder = true"),
    (
        ProphetNetForConditionalGeneration,
        ProphetNetConfig(vocab_size=60, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1),
        "of type prophetnet, which foresees several words",
    ),
    (
        MBartForConditionalGeneration,
        MBartConfig(**H, **BOTH, decoder_start_token_id=5),
        "begins with what a text ends with, here token 2, .* decoder_start_token_id = 5",
    ),
]


@pytest.mark.parametrize(("kind", "config", "said"), UNFIT)
def test_a_model_whose_loss_is_another_is_refused_by_name(kind: Any, config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(graftlm.UserError, match=said):
        load_base(saved(kind(config), tmp_path / "base"), head="lm")


def test_mbart_that_begins_with_its_end_has_the_loss_of_transformers(tmp_path: Path) -> None:
    plain = MBartForConditionalGeneration(MBartConfig(**H, **BOTH, decoder_start_token_id=2)).eval()
    model = made("mbart", ("lora",), Path(saved(plain, tmp_path / "base")))
    model.attached.disabled()
    found = model.speaker.losses([(Features([4, 9, 7], None, answer=[20, 31, 2]), [])], 1)
    expected = plain(input_ids=torch.tensor([[4, 9, 7]]), labels=torch.tensor([[20, 31, 2]])).loss
    assert float(found) == pytest.approx(float(expected.detach()), abs=1e-5)
