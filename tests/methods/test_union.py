"""Methods made of methods: parts act as they do alone, gates scale them, and conflicts are refused by name."""

import re

import pytest
import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.settings import FitConfig, TrainingConfig
from graftlm.methods import attach, kept, learning_rate, parse, with_labels
from graftlm.methods.union import UnionConfig
from graftlm.methods.unipelt import UnipeltConfig
from graftlm.training._optim import optimizer
from tiny import BASIC, HOULSBY, LORA, PREFIX, TABLED, model, outputs, plainly, randomise_runs, texts

TEXTS = texts(4)
NAMES = ["a"] * len(TEXTS)
LINEAR = {**LORA, "sites": "all-linear"}
DORA = {**LINEAR, "dora": True}
QUERY_DORA = {**LORA, "sites": ("attention.query", "attention.key"), "dora": True}
DEFAULT = {"name": "lora", "alpha": 16.0, "rank": 8}


def union(*parts: object, **options: object) -> UnionConfig:
    return UnionConfig.parse({"parts": list(parts), **options}, where="method.")


def close(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-6) -> bool:
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", TABLED)
@torch.no_grad()
def test_parts_at_different_places_act_as_if_the_other_were_attached_before(family: str) -> None:
    """Every part but one without effect, the union gives what that one gives alone."""
    attached = attach(model(family), {"a": union(LORA, HOULSBY)})
    randomise_runs(attached)
    for name, value in attached.parameters_of("a").items():
        if ("span." in name and name.endswith(("up", "up_bias"))) or "norm." in name:
            value.zero_()
    stored = attached.kept("a")
    found = outputs(attached, NAMES, TEXTS)
    attached.detach()
    alone = attach(attached.base, {"a": parse("lora", {k: v for k, v in LORA.items() if k != "name"})})
    alone.load("a", {name: stored[name] for name in alone.parameters_of("a")})
    assert close(found, outputs(alone, NAMES, TEXTS))


@pytest.mark.parametrize("family", BASIC)
@torch.no_grad()
def test_parts_on_one_layer_act_in_the_order_given_whatever_others_do(family: str) -> None:
    orders = {"a": union(LORA, "ia3"), "b": union("ia3", LORA)}
    base = model(family)
    together = attach(base, orders)
    randomise_runs(together)
    together.load("b", together.kept("a"))
    found = {run: outputs(together, [run] * len(TEXTS), TEXTS) for run in orders}
    stored = together.kept("a")
    together.detach()
    for run, config in orders.items():
        alone = attach(base, {run: config})
        alone.load(run, stored)
        assert close(found[run], outputs(alone, [run] * len(TEXTS), TEXTS))
        alone.detach()
    assert not close(found["a"], found["b"], 1e-3)


@pytest.mark.parametrize("family", TABLED)
@torch.no_grad()
def test_a_gate_that_is_open_gives_the_part_and_one_that_is_shut_gives_the_base(family: str) -> None:
    base = model(family)
    before = plainly(base, TEXTS)
    gated = attach(base, {"a": union(LORA, HOULSBY, gates=True)})
    randomise_runs(gated)
    for name, value in gated.parameters_of("a").items():
        if name.endswith("gate-weight"):
            value.zero_()
    found = {}
    for bias in (60.0, -200.0):
        for name, value in gated.parameters_of("a").items():
            if name.endswith("gate-bias"):
                value.fill_(bias)
        found[bias] = outputs(gated, NAMES, TEXTS)
    stored = {name: value for name, value in gated.kept("a").items() if "gate" not in name}
    gated.detach()
    plain = attach(base, {"a": union(LORA, HOULSBY)})
    plain.load("a", stored)
    assert close(found[60.0], outputs(plain, NAMES, TEXTS))
    assert close(found[-200.0], before)


@pytest.mark.parametrize("family", BASIC)
@torch.no_grad()
def test_a_fresh_unipelt_without_its_prefix_is_the_base_exactly(family: str) -> None:
    base = model(family)
    before = plainly(base, TEXTS)
    attached = attach(base, {"a": union(LORA, {"name": "adapter", "variant": "parallel"}, gates=True)})
    found = outputs(attached, NAMES, TEXTS)
    assert all(torch.equal(one, other) for one, other in zip(found, before, strict=True))


def test_the_weight_of_each_gate_is_decayed_and_its_bias_is_not() -> None:
    attached = attach(model("bert"), {"a": UnipeltConfig()})
    parameters = attached.parameters_of("a")
    config = TrainingConfig(weight_decay=0.1)
    made = optimizer(parameters, config, 1e-3, 1e-3, decayed=attached.decayed_of("a"))
    names = {id(value): name for name, value in parameters.items()}
    decay = {names[id(value)]: group["weight_decay"] for group in made.param_groups for value in group["params"]}
    gates = {name: own for name, own in decay.items() if "-gate-" in name}
    assert {name.rsplit(".", 1)[-1] for name in gates} > {
        f"{part}-gate-weight" for part in ("prefix", "adapter", "lora")
    }
    assert gates == {name: 0.1 if name.endswith("weight") else 0.0 for name in gates}


@pytest.mark.parametrize("family", TABLED)
@torch.no_grad()
def test_gates_are_read_by_layer_and_each_in_its_examples_order(family: str) -> None:
    config = UnipeltConfig(bottleneck=3, length=2, hidden=4, rank=2)
    attached = attach(model(family), {"a": config})
    randomise_runs(attached)
    with attached.gates() as together:
        outputs(attached, NAMES, TEXTS)
    alone: list[dict[str, list[Tensor]]] = []
    for text in TEXTS:
        with attached.gates() as found:
            outputs(attached, ["a"], [text])
        alone.append(found)
    attentions = sum(len(attached.sites.attentions(part)) for part in attached.sites.parts)
    prefixes = [name for name in together if name.endswith(".prefix")]
    assert len(prefixes) == attentions
    assert {name.rsplit(".", 1)[1] for name in together} == {"lora", "adapter", "prefix"}
    for name, (values,) in together.items():
        assert values.shape == (len(TEXTS),)
        assert ((values > 0) & (values < 1)).all()
        assert torch.allclose(values, torch.cat([found[name][0] for found in alone]), atol=1e-5)
    assert attached.router.noted is None


@torch.no_grad()
def test_gates_of_layers_that_share_blocks_in_groups_are_read_by_layer() -> None:
    base = model("albert", num_hidden_layers=5, num_hidden_groups=3)  # its blocks are 0, 0, 1, 1, 2
    attached = attach(base, {"a": UnipeltConfig(bottleneck=3, length=2, hidden=4, rank=2)})
    with attached.gates() as found:
        outputs(attached, NAMES, TEXTS)
    parts = ("attention.prefix", "attention.query.lora", "attention.value.lora", "span.feedforward.adapter")
    assert {name: len(values) for name, values in found.items()} == {
        f"{layer}.{part}": 1 for layer in range(5) for part in parts
    }


@torch.no_grad()
def test_a_gate_on_a_norm_of_each_head_is_the_mean_over_real_tokens_and_heads() -> None:
    attached = attach(model("qwen3"), {"a": union(HOULSBY, LORA, gates=True)})
    randomise_runs(attached)
    right, left = (outputs(attached, NAMES, TEXTS, side) for side in ("right", "left"))
    assert close(right, left, 1e-5)
    seen: list[Tensor] = []
    norm = attached.base.get_submodule("layers.0.self_attn.q_norm")
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with attached.gates() as found:
        outputs(attached, ["a"], TEXTS[:1])
    own = attached.parameters_of("a")
    weight, bias = (
        next(
            tensor for name, tensor in own.items() if name.startswith("0.norm.query.") and name.endswith(f"gate-{part}")
        )
        for part in ("weight", "bias")
    )
    (value,) = found["0.norm.query.adapter"]
    assert torch.allclose(value, torch.sigmoid(seen[0] @ weight + bias).mean(), atol=1e-6)


@torch.no_grad()
def test_the_references_pooling_depends_on_padding_and_ours_does_not() -> None:
    for pooling, same in (("masked", True), ("padded", False)):
        attached = attach(model("bert"), {"a": UnipeltConfig(bottleneck=3, length=2, hidden=4, pooling=pooling)})
        randomise_runs(attached)
        short, long = (outputs(attached, ["a"], TEXTS[:1], to=to) for to in (0, 20))
        assert close(short, long, 1e-5) == same
        one = outputs(attached, ["a"], TEXTS[:1])
        assert close(short, one)


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (["lora", "lora"], {}, 'two lora cannot be united: both have a tensor "down" at 0.attention.query'),
        (["prefix", "ptuning-v2"], {}, "prefix and ptuning-v2 cannot be united: both have a prefix"),
        (["mam", "prefix"], {}, "mam and prefix cannot be united: both have a prefix"),
        (["prompt-tuning", "ptuning"], {}, "prompt-tuning and ptuning cannot be united: both have a prompt"),
        (["bitfit", HOULSBY], {}, 'bitfit and adapter cannot be united: both have a tensor "bias" at norm.embedding'),
        (["full", "top-k"], {}, "full and top-k cannot be united: both have the weight encoder.layer.1"),
        (["lora", "prompt-tuning"], {"gates": True}, "gates = true, but prompt-tuning has virtual tokens"),
        (["lora", "top-k"], {"gates": True}, "gates = true, but top-k has weights of the base's own"),
    ],
)
def test_what_cannot_be_united_is_refused_by_name(parts: list[object], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        attach(model("bert"), {"a": union(*parts, **options)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": ["lora"]}, "option method.parts = ['lora']: 1 are given; at least 2"),
        ({"parts": ["lora", "prefxi"]}, 'no method "prefxi"; did you mean "prefix"?'),
        ({"parts": ["lora", {"rank": 4}]}, "method.parts.1 needs a name"),
        ({"parts": ["lora", {"name": "prefix", "lenght": 4}]}, 'no option "method.parts.1.lenght"'),
        ({"parts": ["lora", "lora+prefix"]}, "method.parts.1 is a union itself"),
        ({"parts": ["lora", {"name": "union", "parts": []}]}, "method.parts.1 is a union itself"),
        ({"parts": "lora"}, "option method.parts = ['lora']: 1 are given; at least 2"),
        ({}, "option method.parts is missing"),
    ],
)
def test_a_union_that_is_written_wrong_is_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        UnionConfig.parse(values, where="method.")


def test_a_union_is_written_in_three_ways() -> None:
    short = parse("lora+prefix", {"gates": True})
    assert short == union("lora", "prefix", gates=True)
    config = FitConfig.parse(
        {"model": "m", "data": "d", "out": "o", "method": {"union": ["lora", "prefix"], "gates": True}}
    )
    assert config.method == {"name": "union", "parts": ["lora", "prefix"], "gates": True}
    assert [part.method for part in short.configs] == ["lora", "prefix"]


def test_a_union_hands_on_what_its_parts_need_and_keeps_what_they_keep() -> None:
    config = union({"name": "prompt-tuning", "init": "labels"}, "lora", "ptuning-v2")
    named = with_labels(config, ("good", "bad"))
    assert named.configs[0].labels == ("good", "bad")  # pyright: ignore[reportAttributeAccessIssue]
    assert kept(union("prefix", "lora")).configs[0].reparametrisation == "none"  # pyright: ignore[reportAttributeAccessIssue]
    assert learning_rate(config) == min(learning_rate(part) for part in config.configs)
    assert union("lora", "prefix").parts[0].items() >= DEFAULT.items()


@torch.no_grad()
def test_a_gated_pissa_is_kept_as_plain_lora_with_its_gates() -> None:
    config = union({**LORA, "init": "pissa"}, PREFIX, gates=True)
    attached = attach(model("bert"), {"a": config})
    randomise_runs(attached)
    wanted, stored = outputs(attached, NAMES, TEXTS), attached.kept("a")
    again = attach(model("bert"), {"a": kept(config)})
    again.load("a", stored)
    assert close(outputs(again, NAMES, TEXTS), wanted)
    assert stored["0.attention.query.down"].shape[0] == 2 * LORA["rank"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "phi3"])
@pytest.mark.parametrize(
    "parts",
    [
        (LINEAR, "ia3"),
        ("ia3", LINEAR),
        (LINEAR, "ia3", "bitfit"),
        ("ia3", "bitfit", LINEAR),
        (DORA, "ia3"),
        ("ia3", DORA),
        (DORA, "bitfit"),
        ("bitfit", DORA),
        (QUERY_DORA, "bitfit", "ia3"),
        ("ia3", "bitfit", QUERY_DORA),
    ],
)
@torch.no_grad()
def test_parts_on_one_layer_are_merged_as_they_act(family: str, parts: tuple[object, ...]) -> None:
    own = [part for part in parts if part != "bitfit" or family != "phi3"]
    own += ["ia3"] if len(own) == 1 else []
    base = model(family)
    attached = attach(base, {"a": union(*own)})
    randomise_runs(attached)
    wanted, merged = outputs(attached, NAMES, TEXTS), attached.merged("a")
    attached.detach()
    base.load_state_dict(merged, strict=False)
    assert close(plainly(base, TEXTS), wanted, 1e-5)


@torch.no_grad()
def test_a_method_on_the_bases_own_weights_may_be_united_and_merged() -> None:
    base = model("bert")
    attached = attach(base, {"a": union("lora", "top-k")})
    for value in attached.parameters_of("a").values():
        value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    wanted, merged = outputs(attached, NAMES, TEXTS), attached.merged("a")
    attached.detach()
    base.load_state_dict(merged, strict=False)
    assert close(plainly(base, TEXTS), wanted, 1e-5)
