"""A prefix that starts from the keys and values that the frozen model gives some words."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.methods import _prefixes, attach, kept
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.sites import Sites, recorded
from tiny import CAUSAL, ENCODER_DECODER, TABLED, model, outputs, randomise_runs, texts

WORDS = "hello"
TEXTS = texts(3)


def spelled(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
    """A tokenizer of letters."""
    assert not add_special_tokens
    return {"input_ids": [ord(letter) - ord("a") + 3 for letter in text]}


def ids(length: int) -> list[int]:
    return (spelled(WORDS, False)["input_ids"] * length)[:length]


def config_of(length: int, **options: object) -> PrefixConfig:
    return PrefixConfig.parse({"length": length, "init": "text", "text": WORDS, "reparametrisation": "none"} | options)


@pytest.mark.parametrize("length", [3, 5, 8])  # fewer than the words, as many, and more: they are said again
@pytest.mark.parametrize("family", CAUSAL)
def test_a_prefix_from_words_equals_running_the_words_before_the_text(family: str, length: int) -> None:
    window = {"sliding_window": None} if family == "mistral" else {}  # a prefix is in every window, a text is not
    base = model(family, dtype=torch.float64, lm=True, **window)
    with torch.no_grad():
        wanted = [base(torch.tensor([ids(length) + text])).logits[0, length:] for text in TEXTS]
    attached = attach(base, {"a": config_of(length)}, tokenizer=spelled)
    with torch.no_grad():
        for found, row in zip(outputs(attached, ["a"] * 3, TEXTS), wanted, strict=True):
            assert torch.allclose(found, row, atol=1e-9, rtol=0)


def layers_of(prefix: Tensor, layers: int) -> list[tuple[Tensor, Tensor]]:
    """A prefix (L, layers · 2 · d) as each layer's keys and values, (L d) each."""
    key_values = prefix.unflatten(-1, (layers, 2, -1)).permute(1, 2, 0, 3)
    return [(key, value) for key, value in key_values]


@pytest.mark.parametrize(("family", "projections"), [("bert", ("key", "value")), ("albert", ("key", "value"))])
def test_an_encoders_words_give_each_layers_keys_and_values(family: str, projections: tuple[str, str]) -> None:
    base = model(family)
    made: dict[str, list[Tensor]] = {name: [] for name in projections}
    hooks = [
        module.register_forward_hook(lambda _, __, out, own=own: own.append(out[0]))
        for path, module in base.named_modules()
        for name, own in made.items()
        if path.endswith(f".{name}") and isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        base(torch.tensor([ids(4)]))
    for hook in hooks:
        hook.remove()
    prefix = attach(base, {"a": config_of(4)}, tokenizer=spelled).kept("a")["prefix.values"]
    for layer, (key, value) in enumerate(layers_of(prefix, 2)):
        assert torch.allclose(key, made[projections[0]][layer], atol=1e-6)
        assert torch.allclose(value, made[projections[1]][layer], atol=1e-6)


@pytest.mark.parametrize("family", ENCODER_DECODER)
def test_both_stacks_of_an_encoder_decoder_read_the_words(family: str) -> None:
    base = model(family)
    with torch.no_grad():
        out = base(input_ids=torch.tensor([ids(4)]), decoder_input_ids=torch.tensor([ids(4)]), use_cache=True)
    attached = attach(base, {"a": config_of(4)}, tokenizer=spelled)
    assert attached.kept("a").keys() == {f"prefix.{part}.values" for part in ("encoder", "decoder", "cross")}
    cached = {"decoder": out.past_key_values.self_attention_cache, "cross": out.past_key_values.cross_attention_cache}
    for part, cache in cached.items():
        made = layers_of(attached.kept("a")[f"prefix.{part}.values"], 2)
        for (key, value), layer in zip(made, cache.layers, strict=True):
            for found, wanted in ((key, layer.keys), (value, layer.values)):
                assert torch.allclose(found, wanted[0].transpose(0, 1).flatten(1), atol=1e-6)


@pytest.mark.parametrize("family", TABLED)
def test_an_mlp_starts_nearer_to_the_words_than_it_would(family: str) -> None:
    base = model(family)
    runs = {"words": config_of(4, reparametrisation="mlp", hidden=8), "none": PrefixConfig(length=4, hidden=8)}
    attached = attach(base, runs, tokenizer=spelled)
    parts = attached.sites.parts
    made = {run: attached.kept(run) for run in runs}
    attached.detach()
    for part in parts:
        target = recorded(Sites(base), part, ids(4))
        name = f"prefix.{part}.values" if part else "prefix.values"
        assert F.mse_loss(made["words"][name], target) < F.mse_loss(made["none"][name], target)


def test_an_mlps_output_comes_to_the_words_when_it_is_given_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prefixes, "RATE", 1e-2)
    base = model("gpt2")
    target = recorded(Sites(base), "", ids(3))
    attached = attach(base, {"a": config_of(3, reparametrisation="mlp", hidden=32)}, tokenizer=spelled)
    error = F.mse_loss(attached.kept("a")["prefix.values"], target)
    assert error < 1e-3 * target.pow(2).mean()


def test_a_seed_fixes_an_mlp_that_was_regressed_and_neighbours_do_not_change_it() -> None:
    config = config_of(3, reparametrisation="mlp", hidden=4)

    def started(seed: int, **others: PrefixConfig | LoraConfig) -> dict[str, Tensor]:
        runs = {**others, "a": config}
        attached = attach(model("bert"), runs, seeds=dict.fromkeys(runs, seed), tokenizer=spelled)
        return attached.parameters_of("a")  # type: ignore[return-value]

    one, again, other = started(1), started(1, b=LoraConfig(), c=PrefixConfig(length=5, hidden=3)), started(2)
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not any(torch.equal(value, other[name]) for name, value in one.items())


def test_reading_the_words_leaves_the_base_as_it_was() -> None:
    base = model("bart").train()
    next(base.children()).eval()
    base.config._attn_implementation = "eager"

    def state() -> list[tuple[object, ...]]:
        return [(name, module.training, sorted(module.__dict__)) for name, module in base.named_modules()]

    before = state(), base.config._attn_implementation
    once = recorded(Sites(base), "cross", ids(4))
    assert (state(), base.config._attn_implementation) == before
    assert torch.equal(recorded(Sites(base), "cross", ids(4)), once)  # without dropout


def test_what_other_runs_do_is_not_in_the_words() -> None:
    base = model("gpt2")
    wanted = recorded(Sites(base), "", ids(3))
    attached = attach(base, {"lora": LoraConfig(), "b": PrefixConfig(length=2), "a": config_of(3)}, tokenizer=spelled)
    randomise_runs(attached, ["lora", "b"])
    assert torch.equal(attached.kept("a")["prefix.values"], wanted)


def test_no_word_remains_in_the_stored_form() -> None:
    for reparametrisation in ("mlp", "none"):
        config = config_of(3, reparametrisation=reparametrisation)
        assert kept(config) == PrefixConfig(length=3, reparametrisation="none")
        attached = attach(model("bert"), {"a": config}, tokenizer=spelled)
        stored = attached.kept("a")
        assert [tuple(value.shape) for value in stored.values()] == [(3, 64)]
        attach(model("bert"), {"b": kept(config)}).load("b", stored)


@pytest.mark.parametrize(
    ("options", "tokenizer", "reason"),
    [
        ({}, None, "init = text needs a tokenizer"),
        ({"text": ""}, spelled, "init = text needs method.text"),
        ({"init": "uniform"}, spelled, 'method.text = "hello" needs method.init = text, but it is uniform'),
        ({"length": 65}, spelled, 'init = text runs 65 words, but "bert" has 64 positions'),
        ({"init": "words"}, spelled, "option init = 'words': input should be 'uniform' or 'text'"),
    ],
)
def test_words_that_a_prefix_cannot_start_from_are_refused(
    options: dict[str, object], tokenizer: Callable[..., object] | None, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        attach(model("bert"), {"a": config_of(**{"length": 3} | options)}, tokenizer=tokenizer)
