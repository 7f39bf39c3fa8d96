"""Numbers worked by hand (METHODS.md §6), and parameter counts of published models (§5)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from graftlm.kernels import add_low_rank
from graftlm.methods import (
    MethodConfig,
    _dora,
    _gates,
    _pissa,
    adapter,
    bitfit,
    count,
    full,
    head,
    ia3,
    instance_prompt,
    lora,
    mam,
    prefix,
    prompt_tuning,
    ptuning,
    ptuning_v2,
    top_k,
    unipelt,
)
from graftlm.sites import Route, Site, Sites, View, _attention
from graftlm.sites._router import Derived, Router
from graftlm.sites._view import Kept


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: torch.Tensor, wanted: object) -> bool:
    return torch.allclose(found.flatten(), tensor(wanted).flatten(), atol=1e-4, rtol=0)


W, B = tensor([[1, 2], [3, 4]]), tensor([0.5, -0.5])


def test_lora_gives_the_number_worked_by_hand_attached_and_merged() -> None:
    down, up, scale = tensor([[1, -1]]), tensor([[2], [0]]), tensor(2.0)
    x = tensor([3, 1])
    y = F.linear(x, W, B)
    attached = add_low_rank(y[None, None], x[None, None], down[None], up[None], scale[None])[0, 0]
    merged, bias = lora.merge(W, B, {"down": down, "up": up, "scale": scale})
    assert near(y, [5.5, 12.5])
    assert near(attached, [13.5, 12.5])
    assert near(F.linear(x, merged, bias), [13.5, 12.5])
    unmerged, bias = lora.merge(merged, bias, {"down": down, "up": up, "scale": -scale})
    assert torch.equal(unmerged, W)
    assert bias is B
    assert torch.equal(add_low_rank(y[None, None], x[None, None], down[None], 0 * up[None], scale[None])[0, 0], y)


def test_dora_gives_the_number_worked_by_hand_attached_and_merged() -> None:
    down, up, scale, x = tensor([[1, -1]]), tensor([[2], [0]]), tensor(2.0), tensor([3, 1])
    y, magnitude = F.linear(x, W, B), W.norm(dim=1)

    def attached(up: torch.Tensor) -> torch.Tensor:
        gain = magnitude / _dora.norms(W, down[None], up[None], scale[None])
        own = y[None, None]
        return _dora.decomposed(own, own, B, x[None, None], down[None], up[None], scale[None], gain)

    p = {"down": down, "up": up, "scale": scale, "magnitude": magnitude, "frozen": W}
    merged, bias = _dora.merge(W, B, p)
    assert near(attached(up), [5.8980, 12.5])
    assert near(F.linear(x, merged, bias), [5.8980, 12.5])
    assert near(attached(0 * up), [5.5, 12.5])


def test_doras_norms_are_those_of_the_changed_weight_whatever_the_rank_and_the_padding() -> None:
    weight, down, up = torch.randn(7, 5).double(), torch.randn(3, 4, 5).double(), torch.randn(3, 7, 4).double()
    down[1, 2:], up[1, :, 2:] = 0, 0
    scale = tensor([0.5, 2, 3])
    wanted = (weight + scale[:, None, None] * (up @ down)).norm(dim=-1)
    assert torch.allclose(_dora.norms(weight, down, up, scale), wanted, atol=1e-12)
    assert _dora.norms(0 * weight, down, 0 * up, scale).unique().tolist() == [1]


def test_pissa_starts_from_the_first_singular_parts_worked_by_hand() -> None:
    down, up = _pissa.principal(W, 1, 2.0, None, 0)
    low = 2.0 * up @ down
    assert near(torch.linalg.svdvals(W), [5.4650, 0.3660])
    assert near(torch.linalg.svdvals(low.double()), [5.4650, 0])
    assert near(torch.linalg.svdvals(W - low), [0.3660, 0])
    p = {"down": down, "up": up, "down0": down, "up0": up, "scale": torch.tensor(2.0)}
    assert near(lora.merge_pissa(W, None, p)[0], W.tolist())
    fast, wide = _pissa.principal(W, 1, 2.0, 8, 0)
    assert near((2.0 * wide @ fast).double(), low.tolist())


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    sites = Sites(bert("base"))
    for options, wanted in ({}, 2), ({"rslora": True}, 5.65685):
        config = lora.LoraConfig(alpha=16, rank=8, **options)
        assert {round(act.constants["scale"], 5) for act in lora.acts(config, sites)} == {wanted}


def test_ia3_gives_the_numbers_worked_by_hand_attached_and_merged() -> None:
    x, scale, one = tensor([3, 1]), tensor([2, 0.5]), tensor([1, 1])
    y = F.linear(x, W, B)
    assert near(ia3.scaled(y[None, None], scale[None]), [11, 6.25])
    assert near(F.linear(ia3.scaled(x[None, None], scale[None]), W, B), [7.5, 19.5])
    assert near(F.linear(x, *ia3.merge_output(W, B, {"scale": scale})), [11, 6.25])
    assert near(F.linear(x, *ia3.merge_input(W, B, {"scale": scale})), [7.5, 19.5])
    assert torch.equal(ia3.scaled(y[None, None], one[None])[0, 0], y)


def test_an_adapter_gives_the_number_worked_by_hand() -> None:
    h = tensor([[[1, -2, 0.5]]])
    p = {"down": tensor([[[1, 0, 0], [0, 1, 0]]]), "down_bias": tensor([[0, 0]]), "scale": tensor([1])}
    p |= {"up": tensor([[[1, 0], [0, 1], [1, 1]]]), "up_bias": tensor([[0, 0, 0]])}
    view = View(None, None, None, None, input=h, output=h, y=h)  # type: ignore[arg-type]
    houlsby = adapter.forward("houlsby", "relu")
    assert near(houlsby(view, p), [2, -2, 1.5])
    assert torch.equal(houlsby(view, p | {"up": 0 * p["up"]}), h)


def attention(prefix_length: int | None, gate: float | None = None) -> torch.Tensor:
    """T4's query, keys and values, with its prefix of which `prefix_length` places are open; None for no prefix."""
    module = nn.Module()
    if prefix_length is not None:
        bank = SimpleNamespace(runs=("a",), take=lambda *_: {})
        derived = Derived(bank, dict, torch.tensor([prefix_length]), prefix_length == 1)
        derived.value = tensor([[[0.5, 0.5, 4, 4]]])  # n length 2·width
        router = Router(("a",), torch.device("cpu"), False)
        router.active = Route(("a",))
        site = Site("attention.query", 0, "query", "linear", 2, 2, True)
        prefixes = _attention.Prefixes(router, (0,), 1, 2, part="", site=site, entry=Kept(tensor([[[1, 0]]])))
        given = None if gate is None else lambda *_: tensor([[[gate]]])
        prefixes.banks.append(_attention.Placed(derived, None, given))
        setattr(module, _attention.ATTRIBUTE, prefixes)
    query, key, value = tensor([[[[1, 0]]]]), tensor([[[[1, 0], [0, 1]]]]), tensor([[[[1, 0], [0, 2]]]])
    return _attention.attend(module, query, key, value, None)[0].flatten()


def test_a_prefix_gives_the_numbers_worked_by_hand() -> None:
    assert near(attention(None), [0.6698, 0.6605])
    assert near(attention(1), [1.7350, 1.7287])
    share = 0.319866
    assert near((1 - share) * attention(None) + share * tensor([4, 4]), attention(1).tolist())


def test_a_prefix_that_is_masked_leaves_attention_as_it_is() -> None:
    assert near(attention(0), attention(None).tolist())


@pytest.mark.parametrize(("gate", "wanted"), [(0, [0.5035, 0.4965]), (0.5, [1.0458, 1.0391]), (1, [1.7350, 1.7287])])
def test_a_gated_prefix_gives_the_numbers_worked_by_hand(gate: float, wanted: list[float]) -> None:
    assert near(attention(1, gate), wanted)


def test_a_prefix_with_a_closed_gate_is_not_the_base_but_a_share_of_it() -> None:
    assert near((1 - 0.248255) * attention(None), attention(1, 0).tolist())


@pytest.mark.parametrize(("padded", "wanted"), [(True, 0.690399), (False, 0.880797)])
def test_a_gate_gives_the_numbers_worked_by_hand(padded: bool, wanted: float) -> None:
    h = tensor([[[1, 1], [3, -1], [0, 0], [0, 0]]])
    router = Router(("a",), torch.device("cpu"), False)
    router.masks[""] = torch.tensor([[1, 1, 0, 0]])
    (chunk,) = Route(("a",), uniform=True).plan(("a",), torch.device("cpu"))
    site = Site("attention.query", 0, "query", "linear", 2, 2, True)
    view = View(site, nn.Identity(), chunk, router, input=h, output=h, y=h)
    assert near(_gates.gate(view, h, tensor([[1, 1]]), tensor([[0]]), padded), [wanted])


SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}


def shape(size: str) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (*SIZES[size], 4 * SIZES[size][0]), strict=True))


def bert(size: str, vocabulary: int = 30522) -> nn.Module:
    with torch.device("meta"):
        return BertModel(BertConfig(vocab_size=vocabulary, **shape(size)))


def roberta(size: str) -> nn.Module:
    with torch.device("meta"):
        return RobertaModel(RobertaConfig(max_position_embeddings=514, type_vocab_size=1, **shape(size)))


def t5_encoder(width: int) -> nn.Module:
    """One layer: a prompt's count depends on the width alone."""
    with torch.device("meta"):
        return T5EncoderModel(T5Config(vocab_size=32128, d_model=width, num_layers=1))


T5_SIZES = {"small": (512, 6, 8, 1024), "base": (768, 12, 12, 2048), "large": (1024, 16, 24, 2816)}
T5_SIZES |= {"xl": (2048, 32, 24, 5120), "xxl": (4096, 64, 24, 10240)}


def t5(size: str) -> nn.Module:
    """T5-v1.1."""
    names = ("d_model", "num_heads", "num_layers", "d_ff")
    shape = dict(zip(names, T5_SIZES[size], strict=True))
    with torch.device("meta"):
        return T5Model(T5Config(vocab_size=32128, d_kv=64, feed_forward_proj="gated-gelu", **shape))


def gpt2(size: str) -> nn.Module:
    width, layers, heads = {"medium": (1024, 24, 16), "large": (1280, 36, 20)}[size]
    with torch.device("meta"):
        return GPT2Model(GPT2Config(n_embd=width, n_layer=layers, n_head=heads))


def bart() -> nn.Module:
    """BART-large."""
    with torch.device("meta"):
        return BartModel(BartConfig())


LORA = lora.LoraConfig(rank=4, alpha=32)
NAMED = lora.LoraConfig(rank=8, sites=("query", "value"))
PARTIAL = bitfit.BitfitConfig(sites=("attention.query", "feedforward.input"))


def houlsby(width: int, layer_norms: bool) -> adapter.AdapterConfig:
    return adapter.AdapterConfig(variant="houlsby", bottleneck=width, layer_norms=layer_norms)


@pytest.mark.parametrize(
    ("model", "config", "wanted"),
    [
        (gpt2("medium"), LORA, 393_216),
        (gpt2("large"), LORA, 737_280),
        (roberta("base"), NAMED, 294_912),
        (roberta("large"), NAMED, 786_432),
        (bert("large"), houlsby(64, False), 6_343_680),
        (bert("large"), houlsby(64, True), 6_444_032),
        (bert("large"), houlsby(8, False), 835_968),
        (bert("large"), houlsby(8, True), 936_320),
        (bert("large"), houlsby(256, False), 25_227_264),
        (bert("large"), houlsby(256, True), 25_327_616),
        (bert("base"), houlsby(64, False), 2_379_264),
        (bert("base"), houlsby(64, True), 2_417_664),
        (bert("base"), adapter.AdapterConfig(bottleneck=48), 894_528),
        (bert("base"), bitfit.BitfitConfig(), 102_912),
        (roberta("base"), bitfit.BitfitConfig(), 102_144),  # without the pooler, which no classifier of RoBERTa's has
        (roberta("base"), full.FullConfig(), 124_055_040),
        (roberta("base"), top_k.TopKConfig(), 7_087_872),
        (bert("large"), bitfit.BitfitConfig(), 272_384),
        (gpt2("medium"), bitfit.BitfitConfig(), 271_360),
        (bert("base"), PARTIAL, 46_080),
        (bert("large"), PARTIAL, 122_880),
        (roberta("base"), lora.LoraConfig(rank=8, dora=True), 294_912 + 24 * 768),
        (bert("base"), lora.LoraConfig(rank=8, sites=("embedding",)), 8 * (30_522 + 768)),
        (t5("small"), ia3.Ia3Config(), 34_816),
        (t5("base"), ia3.Ia3Config(), 104_448),
        (t5("large"), ia3.Ia3Config(), 282_624),
        (t5("xl"), ia3.Ia3Config(), 540_672),
        (t5("xxl"), ia3.Ia3Config(), 1_081_344),
        (bert("base"), head.HeadConfig(), 0),
        (bert("base"), full.FullConfig(), 109_482_240),
        (bert("large"), full.FullConfig(), 335_141_888),
        (bert("base", 28996), full.FullConfig(), 108_310_272),
        (bert("large", 28996), full.FullConfig(), 333_579_264),
        (gpt2("medium"), full.FullConfig(), 354_823_168),
        (gpt2("large"), full.FullConfig(), 774_030_080),
    ],
    ids=lambda value: value.method if hasattr(value, "method") else None,
)
def test_a_method_trains_and_keeps_the_published_count(model: nn.Module, config: object, wanted: int) -> None:
    assert count(model, config) == {"delta": wanted, "kept": wanted}


def test_pissa_trains_what_lora_does_and_keeps_a_lora_of_twice_the_rank() -> None:
    config = lora.LoraConfig(rank=8, init="pissa")
    assert count(roberta("base"), config) == {"delta": 294_912, "kept": 2 * 294_912}


@pytest.mark.parametrize(
    ("model", "length", "training", "kept"),
    [
        (gpt2("medium"), 5, 25_744_896, 245_760),
        (gpt2("medium"), 10, 25_750_016, 491_520),
        (gpt2("large"), 10, None, 921_600),
        (bert("base"), 10, 9_857_024, 184_320),
    ],
)
def test_a_prefix_trains_an_mlp_and_keeps_the_published_count(
    model: nn.Module, length: int, training: int | None, kept: int
) -> None:
    found = count(model, prefix.PrefixConfig(length=length))
    assert found["kept"] == kept
    assert training in (None, found["delta"])


def test_deep_prefixes_train_and_keep_the_count_in_the_papers_code() -> None:
    """P-Tuning v2's own comment counts an MLP and a head of 9 labels on BERT-base."""
    through_mlp = ptuning_v2.PtuningV2Config(length=5, reparametrisation="mlp", hidden=512)
    found = count(bert("base"), through_mlp)
    assert found["delta"] + 9 * 768 + 9 == 9_860_105
    assert found["kept"] == 2 * 12 * 768 * 5


@pytest.mark.parametrize(("length", "wanted"), [(8, 393_216), (128, 6_291_456)])
def test_a_deep_prefix_trains_and_keeps_the_published_count(length: int, wanted: int) -> None:
    assert count(roberta("large"), ptuning_v2.PtuningV2Config(length=length)) == {"delta": wanted, "kept": wanted}


def albert() -> nn.Module:
    """ALBERT-xxl's words are 128 wide; a prompt's count depends on nothing else."""
    with torch.device("meta"):
        return AlbertModel(AlbertConfig(embedding_size=128, num_hidden_layers=1))


@pytest.mark.parametrize(
    ("model", "config", "training", "kept"),
    [
        (bert("base"), ptuning.PtuningConfig(length=9), 8_278_272, 9 * 768),
        (albert(), ptuning.PtuningConfig(length=1, hidden=128), 708_992, 128),
        (albert(), ptuning.PtuningConfig(length=1, encoder="mlp"), 33_152, 128),
    ],
)
def test_a_prompt_encoder_trains_the_published_count_and_keeps_the_prompt(
    model: nn.Module, config: ptuning.PtuningConfig, training: int, kept: int
) -> None:
    assert count(model, config) == {"delta": training, "kept": kept}


@pytest.mark.parametrize(
    ("model", "config", "training", "kept"),
    [
        (bert("base"), unipelt.UnipeltConfig(), 11_083_376, 1_410_672),
        (bert("base"), unipelt.UnipeltConfig(variant="ap"), None, 1_097_304),
        (roberta("base"), mam.MamConfig(), None, 599_232),
        (bart(), mam.MamConfig(length=30, bottleneck=512, scale=4), None, 27_414_528),
    ],
)
def test_methods_made_of_methods_train_and_keep_the_published_count(
    model: nn.Module, config: MethodConfig, training: int | None, kept: int
) -> None:
    found = count(model, config)
    assert found["kept"] == kept
    assert training in (None, found["delta"])


def test_a_prompt_made_from_the_text_trains_and_keeps_its_bottleneck() -> None:
    """m d + m + L d m + L d."""
    d, m, length = 1024, 256, 5
    wanted = m * d + m + length * d * m + length * d
    assert wanted == 1_578_240
    config = instance_prompt.InstancePromptConfig(length=length, bottleneck=m)
    assert count(roberta("large"), config) == {"delta": wanted, "kept": wanted}


@pytest.mark.parametrize(
    ("width", "length", "wanted"),
    [
        (512, 100, 51_200),
        (768, 100, 76_800),
        (1024, 100, 102_400),
        (2048, 100, 204_800),
        (4096, 100, 409_600),
        (512, 20, 10_240),
        (768, 1, 768),
    ],
)
def test_a_prompt_trains_the_published_count(width: int, length: int, wanted: int) -> None:
    config = prompt_tuning.PromptTuningConfig(length=length)
    assert count(t5_encoder(width), config) == {"delta": wanted, "kept": wanted}


@pytest.mark.parametrize(("size", "wanted"), [("base", 38_400), ("large", 100_352)])
def test_the_norms_of_bert_have_the_published_count(size: str, wanted: int) -> None:
    assert sum(2 * site.d_out for site in Sites(bert(size)).norms()) == wanted


def test_a_prompt_made_from_the_text_gives_the_number_worked_by_hand() -> None:
    """d = 2, m = 1, L = 1: tanh(0.3·1 + 0.2·2 − 0.2) = tanh(0.5) = 0.46212, times (1, −1), plus (0, 0.5)."""
    p = {"down": tensor([[[0.3, 0.2]]]), "down_bias": tensor([[-0.2]])}
    p |= {"up": tensor([[[1], [-1]]]), "up_bias": tensor([[0, 0.5]])}
    assert near(instance_prompt.through_bottleneck(tensor([[[1, 2]]]), p), [0.46212, 0.03788])


@pytest.mark.parametrize(("length", "hidden"), [(1, 3), (4, 3), (9, 5)])
def test_the_prompt_encoder_equals_torchs_lstm_with_the_same_weights(length: int, hidden: int) -> None:
    torch.manual_seed(0)
    wanted = nn.LSTM(4, hidden, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, length, 4, dtype=torch.float64)
    p = {f"{name}_{layer}": stacked(wanted, torchs, layer) for layer in "01" for name, torchs in TORCHS.items()}
    p = {name: value.expand(2, *value.shape) for name, value in p.items()}
    found = ptuning.lstm_layer(ptuning.lstm_layer(x, p, "0"), p, "1")
    assert torch.allclose(found, wanted(x)[0], atol=1e-9, rtol=0)


TORCHS = {"input": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh"}


def stacked(lstm: nn.LSTM, name: str, layer: str) -> torch.Tensor:
    """Torch's (4h …) of each direction as (2 4 h …), the inputs of an upper layer by direction."""
    both = torch.stack([getattr(lstm, f"{name}_l{layer}{end}") for end in ("", "_reverse")]).detach()
    out = both.unflatten(1, (4, -1))
    return out.unflatten(-1, (2, -1)) if (name, layer) == ("weight_ih", "1") else out
