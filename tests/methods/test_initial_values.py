"""How each method's tensors start, as METHODS.md says, and what that depends on."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods import MethodConfig, attach, prompt_tuning
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.instance_prompt import InstancePromptConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.ptuning import PtuningConfig
from graftlm.methods.ptuning_v2 import PtuningV2Config
from tiny import METHODS, SHARING, VOCABULARY, WIDTH, model

Tensors = Mapping[str, Tensor]
MANY = 400  # numbers enough for their spread to be measured


def starts(config: MethodConfig, seed: int = 0, tokenizer: object = None) -> dict[str, Tensor]:
    attached = attach(model("bert"), {"a": config}, seeds={"a": seed}, tokenizer=tokenizer)
    return {name: value.detach() for name, value in attached.parameters_of("a").items()}


def ending(tensors: Tensors, name: str) -> Tensor:
    return torch.cat([value.flatten() for key, value in tensors.items() if key.endswith(f".{name}")])


def is_zero(x: Tensor) -> bool:
    return x.count_nonzero() == 0


def is_uniform(x: Tensor, low: float, high: float) -> bool:
    near = 0.05 * (high - low)
    inside = low <= float(x.min()) < low + near and high - near < float(x.max()) <= high
    return inside and abs(float(x.mean()) - (low + high) / 2) < near


def is_normal(x: Tensor, std: float) -> bool:
    tails = float((x.abs() > 2 * std).float().mean())
    return abs(float(x.std()) / std - 1) < 0.1 and 0.03 < tails < 0.06


def test_lora_starts_with_a_kaiming_uniform_down_and_a_zero_up() -> None:
    tensors = starts(LoraConfig(rank=MANY, sites=("attention.query",)))
    assert is_uniform(ending(tensors, "down"), -(WIDTH**-0.5), WIDTH**-0.5)
    assert is_zero(ending(tensors, "up"))


def test_bitfit_starts_at_no_change() -> None:
    assert all(is_zero(value) for value in starts(BitfitConfig()).values())


def test_houlsbys_adapter_starts_with_normals_cut_at_two_deviations() -> None:
    tensors = starts(AdapterConfig(variant="houlsby", bottleneck=MANY))
    for name in ("down", "up"):
        found = ending(tensors, name)
        assert float(found.abs().max()) <= 2e-3
        assert float(found.std()) == pytest.approx(0.88e-3, rel=0.05)  # what the cut leaves of a deviation of 1e-3
    assert is_zero(torch.cat([ending(tensors, name) for name in ("down_bias", "up_bias", "weight", "bias")]))


def test_pfeiffers_adapter_starts_normal_and_is_not_the_identity() -> None:
    tensors = starts(AdapterConfig(variant="pfeiffer", bottleneck=MANY))
    assert is_normal(ending(tensors, "down"), 0.02)
    assert is_normal(ending(tensors, "up"), 0.02)
    assert is_zero(torch.cat([ending(tensors, "down_bias"), ending(tensors, "up_bias")]))


def test_the_parallel_adapter_starts_as_lora_does() -> None:
    tensors = starts(AdapterConfig(variant="parallel", bottleneck=MANY))
    assert is_uniform(ending(tensors, "down"), -(WIDTH**-0.5), WIDTH**-0.5)
    assert is_zero(torch.cat([ending(tensors, name) for name in ("up", "down_bias", "up_bias")]))


def test_a_prefix_starts_as_torch_starts_an_embedding_and_linear_layers() -> None:
    tensors = starts(PrefixConfig(length=100, hidden=MANY))
    assert is_normal(ending(tensors, "embedding"), 1.0)
    for layer, fan_in in (("in", WIDTH), ("out", MANY)):
        bound = fan_in**-0.5
        assert is_uniform(ending(tensors, f"{layer}_weight"), -bound, bound)
        assert 0.8 * bound < float(ending(tensors, f"{layer}_bias").abs().max()) <= bound


def test_a_direct_prefix_starts_uniform_from_zero_to_one() -> None:
    assert is_uniform(ending(starts(PrefixConfig(length=100, reparametrisation="none")), "values"), 0, 1)


def test_a_deep_prefix_starts_normal_with_a_small_deviation_through_an_mlp_too() -> None:
    assert is_normal(ending(starts(PtuningV2Config(length=100)), "values"), 0.02)
    tensors = starts(PtuningV2Config(length=100, reparametrisation="mlp", hidden=MANY))
    assert all(is_normal(ending(tensors, name), 0.02) for name in ("embedding", "in_weight", "out_weight"))
    assert is_zero(torch.cat([ending(tensors, "in_bias"), ending(tensors, "out_bias")]))


def test_a_prompt_encoder_starts_as_torch_starts_an_embedding_an_lstm_and_linear_layers() -> None:
    tensors = starts(PtuningConfig(length=100, hidden=25))
    assert is_normal(ending(tensors, "embedding"), 1.0)
    for layer in "01":
        assert is_uniform(torch.cat([ending(tensors, f"{name}_{layer}") for name in ("input", "recurrent")]), -0.2, 0.2)
        assert is_uniform(
            torch.cat([ending(tensors, f"{name}_bias_{layer}") for name in ("input", "recurrent")]), -0.2, 0.2
        )
    for name, fan_in in (("in_weight", 50), ("out_weight", WIDTH)):
        assert is_uniform(ending(tensors, name), -(fan_in**-0.5), fan_in**-0.5)


def test_a_prompt_made_from_the_text_starts_as_torch_starts_linear_layers() -> None:
    tensors = starts(InstancePromptConfig(length=5, bottleneck=MANY))
    for layer, fan_in in (("down", WIDTH), ("up", MANY)):
        bound = fan_in**-0.5
        assert is_uniform(ending(tensors, layer), -bound, bound)
        assert 0.8 * bound < float(ending(tensors, f"{layer}_bias").abs().max()) <= bound


@pytest.mark.parametrize(("init", "low", "high"), [("uniform", -0.5, 0.5), ("uniform-positive", 0.0, 0.5)])
def test_a_uniform_prompt_starts_as_the_paper_or_its_code_says(init: str, low: float, high: float) -> None:
    config = PromptTuningConfig.parse({"length": 100, "init": init})
    assert is_uniform(ending(starts(config), "values"), low, high)


def words_of(prompt: Tensor) -> list[int]:
    """Which row of the vocabulary each position of a prompt is."""
    same = (prompt[:, None] == model("bert").get_input_embeddings().weight).all(-1)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1).tolist()


@pytest.fixture
def _twenty_frequent_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_tuning, "FREQUENT", 20)


@pytest.mark.usefixtures("_twenty_frequent_words")
def test_a_prompt_starts_from_frequent_words_each_once_while_they_last() -> None:
    words = words_of(starts(PromptTuningConfig(length=20))["prompt.values"])
    assert sorted(words) == list(range(20))
    more = words_of(starts(PromptTuningConfig(length=50))["prompt.values"])
    assert set(more) <= set(range(20))


def spelled(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
    """A tokenizer of letters."""
    assert not add_special_tokens
    return {"input_ids": [ord(letter) - ord("a") + 3 for letter in text]}


@pytest.mark.usefixtures("_twenty_frequent_words")
def test_a_prompt_starts_from_the_mean_of_each_labels_pieces_and_then_from_words() -> None:
    config = PromptTuningConfig(length=5, init="labels", labels=("bad", "ok"))
    values = starts(config, tokenizer=spelled)["prompt.values"]
    weight = model("bert").get_input_embeddings().weight
    for position, label in enumerate(config.labels):
        assert torch.equal(values[position], weight[spelled(label, False)["input_ids"]].mean(0))
    assert set(words_of(values[2:])) <= set(range(20))


@pytest.mark.usefixtures("_twenty_frequent_words")
def test_a_prompt_starts_from_the_words_of_a_text_and_then_from_others() -> None:
    values = starts(PromptTuningConfig(length=5, init="text", text="it"), tokenizer=spelled)["prompt.values"]
    words = words_of(values)
    assert words[:2] == spelled("it", False)["input_ids"]
    assert set(words[2:]) <= set(range(20))


def test_a_prompt_starts_from_a_file(tmp_path: Path) -> None:
    file, values = tmp_path / "prompt.safetensors", torch.randn(3, WIDTH)
    save_file({"any": values}, file)
    assert torch.equal(starts(PromptTuningConfig(length=3, init="file", file=str(file)))["prompt.values"], values)
    with pytest.raises(UserError, match=r"one tensor of shape \(4, 16\) is needed"):
        starts(PromptTuningConfig(length=4, init="file", file=str(file)))
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        starts(PromptTuningConfig(length=3, init="file", file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("options", "tokenizer", "reason"),
    [
        ({"init": "text", "text": "it"}, None, "init = text needs a tokenizer"),
        ({"init": "text"}, spelled, "init = text needs method.text"),
        ({"init": "labels"}, spelled, "init = labels needs method.labels"),
        ({"init": "text", "text": "longer"}, spelled, "gives 6 positions, but length is 3"),
    ],
)
def test_words_that_a_prompt_cannot_start_from_are_refused(
    options: dict[str, str], tokenizer: Callable[..., object] | None, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        starts(PromptTuningConfig.parse({"length": 3} | options), tokenizer=tokenizer)


def test_a_reparametrised_prompt_starts_its_embedding_from_words_too() -> None:
    tensors = starts(PromptTuningConfig(length=3, reparametrisation="residual", hidden=MANY))
    assert max(words_of(tensors["prompt.embedding"])) < VOCABULARY
    assert is_uniform(tensors["prompt.in_weight"], -(WIDTH**-0.5), WIDTH**-0.5)


def same(one: Tensors, other: Tensors) -> list[bool]:
    return [torch.equal(value, other[name]) for name, value in one.items()]


NOT_DRAWN = ("bitfit", "ia3", "lora-pissa")


@pytest.mark.parametrize("method", [name for name in SHARING if name not in NOT_DRAWN])
def test_a_seed_fixes_a_runs_start_and_another_seed_gives_another(method: str) -> None:
    one, again, other = (starts(METHODS[method], seed) for seed in (3, 3, 4))
    drawn = {name: value for name, value in one.items() if value.unique().numel() > 1 and ".magnitude" not in name}
    assert drawn
    assert all(same(one, again))
    assert not any(same(drawn, other))


def test_a_runs_start_does_not_depend_on_the_runs_beside_it() -> None:
    configs = {name: METHODS[name] for name in ("lora-all-linear", "prefix", "lora", "prompt")}
    among = attach(model("bert"), configs, seeds={name: seed for seed, name in enumerate(configs)})
    for seed, name in enumerate(configs):
        assert all(same(among.parameters_of(name), starts(METHODS[name], seed)))


def test_the_places_of_one_run_start_apart() -> None:
    downs = [value for name, value in starts(METHODS["lora"]).items() if name.endswith("down")]
    assert not any(torch.equal(one, other) for index, one in enumerate(downs) for other in downs[:index])
