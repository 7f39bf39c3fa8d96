"""Families without a table, and what may be concluded of them from their modules alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import graftlm
from folders import rows, saved, write
from graftlm.checkpoint import load_base
from graftlm.core.errors import UserError
from graftlm.core.files import read_json
from graftlm.methods import MethodConfig, NoWordsError, attach, kept, peft_form
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.head import HeadConfig
from graftlm.methods.instance_prompt import InstancePromptConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.ptuning import PtuningConfig
from graftlm.sites import Sites
from graftlm.tasks._head import guessed_head
from tiny import HIDDEN, LAYERS, VOCABULARY, WIDTH, output, randomise, randomise_runs

BOTH = {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS + 1, "encoder_attention_heads": 2}
BOTH |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
BOTH |= {"pad_token_id": 1, "forced_eos_token_id": None}
CONFIGS: dict[str, dict[str, Any]] = {
    "Pegasus": BOTH,
    "MBart": BOTH,
    "Bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 2},
    "CodeGen": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    "Mpt": {"d_model": WIDTH, "n_layers": LAYERS, "n_heads": 2},
    "Mamba": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4},
    "Rwkv": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS},
    "FNet": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 24},
    "ConvBert": HIDDEN | {"embedding_size": 12, "conv_kernel_size": 3},
    "IBert": HIDDEN | {"pad_token_id": 1},
    "Camembert": HIDDEN | {"pad_token_id": 1},
    "MPNet": HIDDEN | {"pad_token_id": 1},
    "Deberta": HIDDEN,
    "Ernie": HIDDEN,
    "SqueezeBert": HIDDEN | {"embedding_size": WIDTH},
    "DebertaV2": HIDDEN | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
    "Longformer": HIDDEN | {"pad_token_id": 1, "attention_window": 4},
    "XLNet": {"d_model": WIDTH, "n_layer": LAYERS, "n_head": 2, "d_inner": 24},
}
READERS = ("FNet", "ConvBert")


def model(name: str) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **CONFIGS[name])
    made = getattr(transformers, f"{name}Model")(config)
    randomise(made)
    return made.eval()


@pytest.mark.parametrize("name", ["Pegasus", "MBart"])
def test_both_stacks_of_an_encoder_decoder_are_found(name: str) -> None:
    sites = Sites(model(name))
    assert sites.encoder_decoder
    assert {stack: len(blocks) for stack, blocks in sites.stacks.items()} == {"encoder": LAYERS, "decoder": LAYERS + 1}
    assert {site.stack for site in sites.linear()} == {"encoder", "decoder"}
    assert len(sites.linear()) == 6 * LAYERS + 10 * (LAYERS + 1)


@pytest.mark.parametrize("name", ["Pegasus", "MBart"])
@torch.no_grad()
def test_virtual_tokens_of_an_encoder_decoder_stand_for_words_of_the_encoder(name: str) -> None:
    attached = attach(model(name), {"a": PromptTuningConfig(length=2)})
    attached.parameters_of("a")["prompt.values"].copy_(attached.sites.embedding().weight[[11, 12]])
    batch = {"decoder_input_ids": torch.tensor([[2, 9]])}
    found = output(attached(input_ids=torch.tensor([[VOCABULARY, VOCABULARY + 1, 5, 9]]), **batch))
    wanted = output(attached(input_ids=torch.tensor([[11, 12, 5, 9]]), **batch))
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["Bloom", "CodeGen", "Mpt", "Mamba", "Pegasus"])
def test_a_decoders_head_reads_the_last_token(name: str) -> None:
    assert guessed_head(attach(model(name), {"a": HeadConfig()})).pool == "last"


@pytest.mark.parametrize("name", ["MPNet", "Deberta", "Ernie"])
def test_an_encoders_head_reads_the_first_token(name: str) -> None:
    assert guessed_head(attach(model(name), {"a": HeadConfig()})).pool == "first"


@pytest.mark.parametrize(("name", "taken"), [("Camembert", 2), ("MPNet", 2), ("Ernie", 0)])
def test_positions_that_padding_takes_are_not_left_for_text(name: str, taken: int) -> None:
    assert Sites(model(name)).positions == 64 - taken


@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_whose_layers_read_padding_says_so(name: str) -> None:
    notice = Sites(model(name)).notice
    assert notice is not None
    assert notice.endswith("; it reads padding, so a text's answer depends on its batch") == (name in READERS)


@pytest.mark.parametrize(("name", "reads"), [("Rwkv", True), ("Mamba", False), ("CodeGen", False), ("Bloom", False)])
def test_one_that_writes_texts_is_tried_with_padding_at_the_left(name: str, reads: bool) -> None:
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **CONFIGS[name])
    writer = getattr(transformers, f"{name}ForCausalLM")(config)
    randomise(writer)
    assert Sites(writer.train()).reads_padding == reads
    assert writer.training


def test_a_family_that_does_not_take_the_lengths_that_are_tried_is_known_by_the_rest() -> None:
    options = HIDDEN | {"vocab_size": VOCABULARY, "segment_means_seq_len": 64, "num_landmarks": 8}
    sites = Sites(transformers.NystromformerModel(transformers.NystromformerConfig(**options)))
    assert sites.notice is not None
    assert not sites.reads_padding


def test_a_limit_of_minus_one_is_none() -> None:
    assert Sites(model("XLNet")).positions is None


@pytest.mark.parametrize("name", ["Ernie", "MPNet", "Deberta"])
def test_bitfit_trains_every_bias_of_the_backbone(name: str) -> None:
    base = model(name)
    every = sum(value.numel() for path, value in base.named_parameters() if path.endswith(".bias"))
    attached = attach(base, {"a": BitfitConfig()})
    assert sum(value.numel() for value in attached.parameters_of("a").values()) == every


@torch.no_grad()
def test_sinusoids_that_a_checkpoint_leaves_out_are_computed(tmp_path: Path) -> None:
    config = transformers.MarianConfig(vocab_size=VOCABULARY, decoder_start_token_id=1, eos_token_id=2, **BOTH)
    folder = saved(transformers.MarianMTModel(config), tmp_path / "model")
    base, whole = load_base(folder), transformers.MarianMTModel.from_pretrained(folder)
    ids = torch.tensor([[5, 9, 14, 2]])
    wanted = whole.eval().model(input_ids=ids, decoder_input_ids=ids).last_hidden_state
    assert torch.equal(output(base.model(input_ids=ids, decoder_input_ids=ids)), wanted)
    assert not base.missing


@pytest.mark.parametrize("config", [LoraConfig(), LoraConfig(sites="all-linear")])
def test_lora_refuses_a_model_without_linear_layers_by_name(config: LoraConfig) -> None:
    with pytest.raises(UserError, match='"squeezebert" has no linear layer inside repeated blocks'):
        attach(model("SqueezeBert"), {"a": config})


def test_bitfit_refuses_a_model_without_blocks_by_name() -> None:
    with pytest.raises(UserError, match='in "squeezebert" none of its layers has one'):
        attach(model("SqueezeBert"), {"a": BitfitConfig()})


@pytest.mark.parametrize("config", [PromptTuningConfig(), PtuningConfig(), InstancePromptConfig()])
def test_a_prompt_is_refused_by_name_where_words_are_looked_up_in_no_embedding(config: MethodConfig) -> None:
    with pytest.raises(UserError, match='"ibert" looks words up in a QuantEmbedding, where no virtual tokens'):
        attach(model("IBert"), {"a": config})
    ids = torch.tensor([[5, 9, 14]])
    assert output(attach(model("IBert"), {"a": HeadConfig()})(input_ids=ids)).shape == (1, 3, WIDTH)


@pytest.mark.parametrize("config", [PromptTuningConfig(), PtuningConfig()])
@pytest.mark.parametrize("name", ["Mamba", "Rwkv", "FNet"])
def test_peft_has_no_words_for_a_prompt_of_a_model_without_heads(name: str, config: MethodConfig) -> None:
    with pytest.raises(NoWordsError, match=f'num_attention_heads; that of "{name.lower()}" has none'):
        peft_form(kept(config), Sites(model(name)))


@pytest.mark.parametrize("name", ["XLNet", "Longformer", "DebertaV2"])
def test_many_runs_are_refused_where_rows_do_not_come_first(name: str) -> None:
    with pytest.raises(UserError, match="does not keep texts apart, so it cannot share the base; attach it alone"):
        attach(model(name), {"a": LoraConfig(), "b": LoraConfig()})


@torch.no_grad()
def test_many_runs_share_a_base_where_the_layers_they_act_on_keep_rows() -> None:
    config = LoraConfig(sites=["intermediate.dense"])  # the queries see the distances between tokens as well
    attached = attach(model("DebertaV2"), {"a": config, "b": config})
    randomise_runs(attached)
    ids = torch.arange(12).reshape(3, 4)
    with attached.route(["a", None, "b"]):
        together = output(attached(input_ids=ids))
    for row, name in enumerate(["a", None, "b"]):
        with attached.route([name]):
            alone = output(attached(input_ids=ids[row : row + 1]))
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
def test_a_prompt_made_from_a_text_leaves_out_what_a_window_is_filled_up_with() -> None:
    attached = attach(model("Longformer"), {"a": InstancePromptConfig(length=2, bottleneck=3)})
    randomise_runs(attached)
    ids = torch.tensor([[VOCABULARY, VOCABULARY + 1, 5, 9, 14]])
    short = output(attached(input_ids=ids, attention_mask=torch.ones_like(ids)))
    filled = torch.nn.functional.pad(ids, (0, 3), value=1)
    whole = output(attached(input_ids=filled, attention_mask=(filled != 1).long()))[:, :5]
    assert torch.allclose(short, whole, atol=1e-5)


def test_a_comparison_trains_runs_that_cannot_share_such_a_base_one_by_one(tmp_path: Path) -> None:
    folder = saved(model("DebertaV2"), tmp_path / "model")
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows(12))
    methods = ["bitfit", {"name": "lora", "sites": ["intermediate.dense"]}]
    graftlm.compare(
        model=folder,
        data=str(tmp_path),
        methods=methods,
        seeds=[0, 1],
        out=str(tmp_path / "c"),
        training={"max_steps": 2},
    )
    groups = read_json(tmp_path / "c/plan.json", "plan")["groups"]
    assert [len(group["runs"]) for group in groups] == [2, 1, 1]
    assert {run for group in groups[1:] for run in group["runs"]} == {"bitfit-seed0", "bitfit-seed1"}
