"""Numbers worked by hand (METHODS.md §6), and parameter counts of published models (§5)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from graftlm.methods import adapter, bitfit, count, lora, prefix
from graftlm.sites import Route, View, _attention
from graftlm.sites._router import Derived, Router


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: torch.Tensor, wanted: object) -> bool:
    return torch.allclose(found.flatten(), tensor(wanted).flatten(), atol=1e-4, rtol=0)


W, B = tensor([[1, 2], [3, 4]]), tensor([0.5, -0.5])


def test_lora_gives_the_number_worked_by_hand_attached_and_merged() -> None:
    down, up, scale = tensor([[1, -1]]), tensor([[2], [0]]), tensor(2.0)
    x = tensor([3, 1])
    y = F.linear(x, W, B)
    attached = y + lora.low_rank(x[None, None], down[None], up[None], scale[None])[0, 0]
    merged, bias = lora.merge(W, B, {"down": down, "up": up, "scale": scale})
    assert near(y, [5.5, 12.5])
    assert near(attached, [13.5, 12.5])
    assert near(F.linear(x, merged, bias), [13.5, 12.5])
    assert lora.low_rank(x[None, None], down[None], 0 * up[None], scale[None]).count_nonzero() == 0


def test_an_adapter_gives_the_number_worked_by_hand() -> None:
    h = tensor([[[1, -2, 0.5]]])
    p = {"down": tensor([[[1, 0, 0], [0, 1, 0]]]), "down_bias": tensor([[0, 0]]), "scale": tensor([1])}
    p |= {"up": tensor([[[1, 0], [0, 1], [1, 1]]]), "up_bias": tensor([[0, 0, 0]])}
    view = View(None, None, None, None, input=h, y=h)  # type: ignore[arg-type]
    houlsby = adapter.forward("houlsby", "relu")
    assert near(houlsby(view, p), [2, -2, 1.5])
    assert torch.equal(houlsby(view, p | {"up": 0 * p["up"]}), h)


def attention(prefix_length: int | None) -> torch.Tensor:
    """T4's query, keys and values, with its prefix of which `prefix_length` places are open; None for no prefix."""
    module = nn.Module()
    if prefix_length is not None:
        derived = Derived(SimpleNamespace(runs=("a",)), dict, torch.tensor([prefix_length]), prefix_length == 1)
        derived.value = tensor([[[0.5, 0.5, 4, 4]]])  # n length 2·width
        router = Router(("a",), torch.device("cpu"), False)
        router.active = Route(("a",))
        setattr(module, _attention.ATTRIBUTE, _attention.Prefixes(router, [(derived, None)], 0, 1, 2))
    query, key, value = tensor([[[[1, 0]]]]), tensor([[[[1, 0], [0, 1]]]]), tensor([[[[1, 0], [0, 2]]]])
    return _attention.attend(module, query, key, value, None)[0].flatten()


def test_a_prefix_gives_the_numbers_worked_by_hand() -> None:
    assert near(attention(None), [0.6698, 0.6605])
    assert near(attention(1), [1.7350, 1.7287])
    share = 0.319866
    assert near((1 - share) * attention(None) + share * tensor([4, 4]), attention(1).tolist())


def test_a_prefix_that_is_masked_leaves_attention_as_it_is() -> None:
    assert near(attention(0), attention(None).tolist())


def bert(size: str) -> nn.Module:
    width, layers, heads = {"base": (768, 12, 12), "large": (1024, 24, 16)}[size]
    with torch.device("meta"):
        return BertModel(
            BertConfig(
                hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width
            )
        )


def gpt2(size: str) -> nn.Module:
    width, layers, heads = {"medium": (1024, 24, 16), "large": (1280, 36, 20)}[size]
    with torch.device("meta"):
        return GPT2Model(GPT2Config(n_embd=width, n_layer=layers, n_head=heads))


LORA = lora.LoraConfig(rank=4, alpha=32)
PARTIAL = bitfit.BitfitConfig(sites=("attention.query", "feedforward.input"))


def houlsby(width: int, layer_norms: bool) -> adapter.AdapterConfig:
    return adapter.AdapterConfig(variant="houlsby", bottleneck=width, layer_norms=layer_norms)


@pytest.mark.parametrize(
    ("model", "config", "wanted"),
    [
        (gpt2("medium"), LORA, 393_216),
        (gpt2("large"), LORA, 737_280),
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
        (bert("large"), bitfit.BitfitConfig(), 272_384),
        (gpt2("medium"), bitfit.BitfitConfig(), 271_360),
        (bert("base"), PARTIAL, 46_080),
    ],
    ids=lambda value: value.method if hasattr(value, "method") else None,
)
def test_a_method_trains_and_keeps_the_published_count(model: nn.Module, config: object, wanted: int) -> None:
    assert count(model, config) == {"delta": wanted, "kept": wanted}


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
