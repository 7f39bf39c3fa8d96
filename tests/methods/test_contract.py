"""What every method promises on every family: what it trains, what it stores, and that the base comes back whole."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.methods import attach, kept, parse
from graftlm.methods.full import FullConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.sites import Attached
from tiny import (
    CASES,
    CAUSAL,
    CONFIGS,
    ENCODER_DECODER,
    IN_PLACE,
    LEFT_PADDED,
    METHODS,
    TABLED,
    batch_of,
    fits,
    model,
    outputs,
    plainly,
    randomise,
    randomise_runs,
    texts,
    virtual,
)

TEXTS = texts(3)
SOFTMAXED = ("key.bias", "k_lin.bias", "k_proj.bias", ".k.bias")  # softmax takes no notice of a key's bias
LORAS = ("lora", "lora-all-linear", "lora-rslora", "lora-dora")
UNCHANGED = (*LORAS, "lora-embedding", "ia3", "bitfit", "parallel", "union-scaled")
MERGEABLE = (*LORAS, "lora-pissa", "lora-embedding", "ia3", "bitfit", "union-scaled", *IN_PLACE, "head")
# Tensors without a gradient while what they act through is zero, or while what they scale changes nothing.
STILL = dict.fromkeys((*LORAS, "parallel", "union-scaled", "union-prompted"), r"\.down") | {
    "lora-embedding": r"\.up",
    "mam": r"span\.feedforward\.down",
    "unipelt": r"(query|value)\.(down|lora-gate)",
    "union-gated": r"(query|value)\.(down|lora-gate)|ia3-gate|norm\.\w+\.adapter-gate",
}
TIED = [(family, "lora-embedding") for family in ENCODER_DECODER]  # three modules share one embedding


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loss(attached: Attached, run: str = "a") -> Tensor:
    """A number that every tensor of a backbone moves."""
    out = attached(**batch_of(attached.base, [virtual(attached, run) + text for text in TEXTS]))
    tensors = [value for value in out.values() if isinstance(value, Tensor)]
    return sum((value.float().pow(2).sum() for value in tensors), torch.zeros(()))


def step(attached: Attached, run: str = "a") -> None:
    attached.train()
    if parameters := attached.parameters_of(run):
        loss(attached, run).backward()
        torch.optim.SGD(parameters.values(), lr=1e-3).step()


def equal(one: list[Tensor], other: list[Tensor], tolerance: float = 0.0) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if not tolerance else torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in pairs)


def alone(attached: Attached, run: str = "a") -> list[Tensor]:
    with torch.no_grad():
        return outputs(attached, [run] * len(TEXTS), TEXTS)


@pytest.mark.parametrize(("family", "method"), [case for case in CASES if case[1] in UNCHANGED])
def test_a_fresh_adapter_leaves_the_output_as_it_is_bit_for_bit(family: str, method: str) -> None:
    base = model(family)
    before = plainly(base, TEXTS)
    assert equal(alone(attach(base, {"a": METHODS[method]})), before)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_fresh_pissa_run_gives_the_bases_output_to_rounding(family: str) -> None:
    base = model(family)
    before = plainly(base, TEXTS)
    attached = attach(base, {"a": METHODS["lora-pissa"]})
    assert all(value.abs().gt(0.01).any() for value in attached.parameters_of("a").values())
    assert equal(alone(attached), before, 1e-5)


def test_bitfit_refuses_a_model_without_biases_by_name() -> None:
    with pytest.raises(UserError, match='bitfit trains biases, and in "llama" none'):
        attach(model("llama"), {"a": METHODS["bitfit"]})


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_step_changes_only_the_tensors_of_the_run(family: str, method: str) -> None:
    base = model(family)
    attached = attach(base, {"a": METHODS[method]})
    own = {f"{name.removeprefix('base.')}" for name in attached.parameters_of("a") if name.startswith("base.")}
    before = {name: value.clone() for name, value in base.named_parameters() if "tensor_" not in name}
    started = {name: value.detach().clone() for name, value in attached.parameters_of("a").items()}
    step(attached)
    after = dict(base.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - own)
    for name, tensor in attached.parameters_of("a").items():
        assert tensor.grad is not None, name
        if method in STILL and re.search(STILL[method], name):
            assert tensor.grad.count_nonzero() == 0
        elif not name.endswith(SOFTMAXED):
            assert not torch.equal(tensor, started[name]), name


@pytest.mark.parametrize(("family", "method"), CASES)
def test_what_is_kept_of_a_run_gives_its_output_bit_for_bit(family: str, method: str) -> None:
    config = METHODS[method]
    attached = attach(model(family), {"a": config})
    randomise_runs(attached)
    for name, tensor in attached.parameters_of("a").items():
        if name.startswith("base."):
            tensor.data += 0.01
    before, stored = alone(attached), attached.kept("a")
    again = attach(model(family), {"b": kept(config)}, seeds={"b": 5})
    again.load("b", stored)
    assert equal(alone(again, "b"), before)


def test_a_reparametrisation_is_not_kept() -> None:
    for method in ("prefix-mlp", "ptuning-v2-mlp", "prompt-mlp", "prompt-residual", "ptuning", "ptuning-mlp"):
        (name,) = attach(model("bert"), {"a": METHODS[method]}).kept("a")
        assert name.endswith(".values")


def test_tensors_that_do_not_fit_a_run_are_refused_by_name() -> None:
    attached = attach(model("bert"), {"a": METHODS["lora"]})
    stored = attached.kept("a")
    name = "1.attention.value.up"
    with pytest.raises(UserError, match=rf"1 missing \(first: {name}\)"):
        attached.load("a", {key: value for key, value in stored.items() if key != name})
    with pytest.raises(UserError, match=r"1 unexpected \(first: head.weight\)"):
        attached.load("a", stored | {"head.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"{name} has shape \(3,\); \(16, 2\) is needed"):
        attached.load("a", {key: value + 1 for key, value in stored.items()} | {name: torch.zeros(3)})
    assert same_bits(attached.kept("a"), stored)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_detach_gives_the_base_back_whole(family: str, method: str) -> None:
    base = model(family).train()
    next(base.children()).eval()
    next(base.parameters()).requires_grad_(False)
    base.config._attn_implementation = "eager"

    def state() -> tuple[object, ...]:
        parameters = [(name, id(value), value.requires_grad, value.grad) for name, value in base.named_parameters()]
        modules = [(name, id(module), module.training, len(module.__dict__)) for name, module in base.named_modules()]
        return parameters, modules, len(base._forward_pre_hooks), base.config._attn_implementation

    before, weights = state(), bits(base)
    attached = attach(base, {"a": METHODS[method]})
    randomise_runs(attached)
    step(attached)
    assert attached.detach() is base
    assert state() == before
    assert same_bits(bits(base), weights)


@pytest.mark.parametrize("family", TABLED)
@pytest.mark.parametrize("method", ["prompt", "full", "lora", "lora-embedding"])
def test_tied_embeddings_stay_tied(family: str, method: str) -> None:
    base = model(family, lm=True, tie_word_embeddings=True)

    def tied() -> bool:
        return base.get_output_embeddings().weight is base.get_input_embeddings().weight

    assert tied()
    attached = attach(base, {"a": METHODS[method]})
    step(attached)
    assert tied()
    attached.detach()
    assert tied()


@pytest.mark.parametrize("name", ["lora", "a.b", "", "base", "weight", "ä b/c"])
def test_an_adapter_may_have_any_name(name: str) -> None:
    base = model("gpt2")
    found = []
    for run in ("plain", name):
        attached = attach(base, {run: METHODS["lora"], "other": METHODS["prefix"]})
        randomise_runs(attached)
        found.append(alone(attached, run))
        step_and_kept = attached.kept(run)
        attached.load(run, step_and_kept)
        attached.detach()
    assert equal(*found)


@pytest.mark.parametrize(("family", "method"), [case for case in CASES if case[1] in MERGEABLE and case not in TIED])
def test_a_merged_model_gives_the_output_of_the_attached_adapter(family: str, method: str) -> None:
    base = model(family)
    plain = copy.deepcopy(base)
    attached = attach(base, {"a": METHODS[method]})
    randomise_runs(attached)
    if method in IN_PLACE:
        randomise(base, seed=1)
    merged = attached.merged("a")
    missing = plain.load_state_dict(merged, strict=False)
    assert not missing.unexpected_keys
    wanted = alone(attached) if method not in IN_PLACE else None
    if wanted is not None:
        assert equal(plainly(plain, TEXTS), wanted, 1e-5)
    else:
        assert all(torch.equal(plain.get_parameter(name), base.get_parameter(name)) for name in merged)


@pytest.mark.parametrize("family", TABLED)
def test_a_change_of_a_tied_weight_is_not_merged_and_the_other_layer_named(family: str) -> None:
    base = model(family, lm=True, tie_word_embeddings=True)
    attached = attach(base, {"a": METHODS["lora-embedding"]})
    with pytest.raises(UserError, match=r"^\S+ cannot be merged: its weight is tied to \S+'s; keep the adapter"):
        attached.merged("a")


def test_an_untied_embedding_of_a_model_with_a_head_is_merged() -> None:
    attached = attach(model("llama", lm=True, tie_word_embeddings=False), {"a": METHODS["lora-embedding"]})
    assert list(attached.merged("a")) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("method", "reason"),
    [(name, "a nonlinear branch") for name in ("houlsby", "pfeiffer", "parallel")]
    + [(name, "a prefix") for name in ("prefix", "prefix-mlp", "ptuning-v2", "mam")]
    + [("unipelt", "a nonlinear branch"), ("union-prompted", "a prompt"), ("union-gated", "a nonlinear branch")]
    + [(name, "a prompt") for name in ("prompt", "ptuning", "instance-prompt")],
)
def test_what_no_weight_can_express_is_not_merged_and_the_reason_given(method: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"cannot be merged: {reason} at "):
        attach(model("bert"), {"a": METHODS[method]}).merged("a")


CONTEXT = [7, 8, 9, 10]


def after_context(base: nn.Module) -> list[Tensor]:
    """The outputs at each text's tokens where the context stands before it; in the encoder, where there is one."""
    if not base.config.is_encoder_decoder:
        return [base(torch.tensor([CONTEXT + text])).last_hidden_state[0, len(CONTEXT) :] for text in TEXTS]
    given = [(torch.tensor([CONTEXT + text]), torch.tensor([text])) for text in TEXTS]
    return [base(input_ids=ids, decoder_input_ids=own).last_hidden_state[0] for ids, own in given]


def as_prefix(cache: object) -> Tensor:
    """A cache's keys and values as the prefix's own layout, (length, layers · 2 · heads · head width)."""
    layers = [torch.stack((layer.keys[0], layer.values[0])) for layer in cache.layers]  # 2 heads length width
    return torch.stack(layers).permute(3, 0, 1, 2, 4).flatten(1)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_prefix_of_real_tokens_keys_and_values_equals_running_those_tokens(family: str, side: str) -> None:
    window = {"sliding_window": None} if family == "mistral" else {}  # a prefix is in every window, a text is not
    base = model(family, dtype=torch.float64, **window)
    with torch.no_grad():
        wanted = after_context(base)
        prefix = as_prefix(base(torch.tensor([CONTEXT]), use_cache=True).past_key_values)
        attached = attach(base, {"a": PrefixConfig(length=len(CONTEXT), reparametrisation="none")})
        attached.load("a", {"prefix.values": prefix})
        assert equal(outputs(attached, ["a"] * len(TEXTS), TEXTS, side), wanted, 1e-9)


@pytest.mark.parametrize(("family", "side"), LEFT_PADDED)
def test_a_prompt_of_real_tokens_embeddings_equals_running_those_tokens(family: str, side: str) -> None:
    base = model(family, dtype=torch.float64)
    with torch.no_grad():
        wanted = after_context(base)
        values = base.get_input_embeddings().weight[CONTEXT].clone()
        attached = attach(base, {"a": PromptTuningConfig(length=len(CONTEXT))})
        attached.load("a", {"prompt.values": values})
        assert equal(outputs(attached, ["a"] * len(TEXTS), TEXTS, side), wanted, 1e-9)


@pytest.mark.parametrize("family", [family for family in TABLED if family not in ENCODER_DECODER])
def test_without_position_shift_a_text_after_a_prompt_keeps_its_own_positions(family: str) -> None:
    base = model(family, dtype=torch.float64)
    text, length = TEXTS[0], len(CONTEXT)
    positions = torch.tensor([[*range(length), *range(len(text))]]) + (2 if family == "roberta" else 0)
    ids = torch.tensor([CONTEXT + text])
    with torch.no_grad():
        wanted = base(ids, attention_mask=torch.ones_like(ids), position_ids=positions).last_hidden_state[0, length:]
        values = base.get_input_embeddings().weight[CONTEXT].clone()
        attached = attach(base, {"a": PromptTuningConfig(length=length, position_shift=False)})
        attached.load("a", {"prompt.values": values})
        assert equal(outputs(attached, ["a"], [text], to=12), [wanted], 1e-9)
        assert equal(outputs(attached, ["a"], [text], "left", to=12), [wanted], 1e-9)
        unmasked = attached(input_ids=torch.tensor([virtual(attached, "a") + text])).last_hidden_state[0, length:]
        assert equal([unmasked], [wanted], 1e-9)


def test_a_model_without_a_table_keeps_its_own_positions() -> None:
    base = model("mpnet")
    before = plainly(base, TEXTS)
    assert equal(alone(attach(base, {"a": METHODS["lora"]})), before)
    assert equal(plainly(base, TEXTS), before)


@pytest.mark.parametrize(("family", "reason"), [("mpnet", '"mpnet" needs a table'), ("t5", "positions are relative")])
def test_an_unshifted_prompt_is_refused_where_positions_cannot_be_moved(family: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"position_shift = false.* {reason}"):
        attach(model(family), {"a": PromptTuningConfig(length=2, position_shift=False)})


@pytest.mark.parametrize("method", IN_PLACE)
def test_a_method_that_trains_the_base_itself_refuses_to_share_it(method: str) -> None:
    with pytest.raises(UserError, match='adapter "b" trains the base\'s own weights'):
        attach(model("bert"), {"a": LoraConfig(), "b": METHODS[method]})


HIDDEN = "method.hidden = 64 needs method.reparametrisation = mlp"


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("prompt-tuning", {"text": "hello"}, 'method.text = "hello" needs method.init = text, but it is vocabulary'),
        ("prompt-tuning", {"file": "p.st"}, 'method.file = "p.st" needs method.init = file, but it is vocabulary'),
        ("prompt-tuning", {"init": "text", "labels": ["a", "b"]}, "method.labels = [a, b] needs method.init = labels"),
        ("prompt-tuning", {"hidden": 64}, f"{HIDDEN} or residual, but it is none"),
        ("prefix", {"hidden": 64, "reparametrisation": "none"}, HIDDEN),
        ("ptuning-v2", {"hidden": 64}, HIDDEN),
        ("mam", {"hidden": 64, "reparametrisation": "none"}, HIDDEN),
        ("unipelt", {"hidden": 64, "reparametrisation": "none"}, HIDDEN),
        ("unipelt", {"rank": 4, "variant": "ap"}, "method.rank = 4 needs method.variant = apl, but it is ap"),
        ("ptuning", {"hidden": 64, "encoder": "none"}, "method.hidden = 64 needs method.encoder = lstm or mlp"),
        ("lora+ia3", {"pooling": "padded"}, 'method.pooling = "padded" needs method.gates = true, but it is false'),
    ],
)
def test_an_option_that_nothing_would_read_is_refused_by_name(method: str, options: dict, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        attach(model("bert"), {"a": parse(method, options)})


def test_full_trains_every_parameter() -> None:
    base = model("llama", lm=True)
    names = {f"base.{name}" for name, _ in base.named_parameters()}
    assert attach(base, {"a": FullConfig()}).parameters_of("a").keys() == names


def test_top_k_trains_the_highest_layers_and_what_lies_above() -> None:
    names = attach(model("gpt2"), {"a": METHODS["top-k"]}).parameters_of("a")
    assert {name.split(".")[1] + name.split(".")[2] for name in names} == {"h1", "ln_fweight", "ln_fbias"}


def test_every_method_runs_somewhere() -> None:
    assert all(any(fits(family, method) for family in TABLED) for method in METHODS)
