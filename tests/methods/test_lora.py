"""LoRA's options: what each refuses, what DoRA remembers, what PiSSA keeps, and LoRA+'s rates."""

import pytest
import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.settings import TrainingConfig
from graftlm.methods import _dora, _pissa, attach, kept
from graftlm.methods.ia3 import Ia3Config
from graftlm.methods.lora import LoraConfig
from graftlm.sites import Attached, Sites
from graftlm.training._optim import optimizer
from tiny import BASIC, VOCABULARY, model, outputs, plainly, randomise_runs, texts

TEXTS = texts(3)
DORA = LoraConfig(rank=2, dora=True, sites="all-linear")
EMBEDDING = ("embedding",)


def found(attached: Attached, run: str = "a") -> list[Tensor]:
    return outputs(attached, [run] * len(TEXTS), TEXTS)


def near(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("bert", {"dora": True, "init": "pissa"}, "dora = true and init = pissa do not go together"),
        ("bert", {"pissa_iterations": 4}, "pissa_iterations = 4 means nothing with init = kaiming"),
        ("bert", {"init": "pissa", "rank": 17}, r"rank 17: \S+query has 16 singular values; take at most 16"),
        ("bert", {"dora": True, "sites": EMBEDDING}, r"dora = true .* \S+word_embeddings is an embedding"),
        ("bert", {"init": "pissa", "sites": EMBEDDING}, r"init = pissa .* \S+word_embeddings is an embedding"),
        ("bert", {"plus": 16.0, "sites": EMBEDDING}, "plus = 16 is for linear layers"),
        ("bert", {"sites": ("embedding.position",)}, r"position_embeddings is of kind embedding.position"),
        ("bert", {"sites": ("norm.attention",)}, "LayerNorm is of kind norm"),
        ("mpnet", {"sites": EMBEDDING}, '"mpnet" has no table, so its embedding is not known'),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(
    family: str, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        attach(model(family), {"a": LoraConfig.parse(options)})


@pytest.mark.parametrize("options", [{"init": "zero"}, {"plus": 0}, {"pissa_iterations": 0}])
def test_a_value_that_an_option_cannot_have_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"option method.{next(iter(options))} = "):
        LoraConfig.parse(options, where="method.")


def test_ia3_refuses_a_model_without_a_table_and_a_norm_by_name() -> None:
    with pytest.raises(UserError, match='ia3 needs to know the blocks of "mpnet"'):
        attach(model("mpnet"), {"a": Ia3Config()})
    with pytest.raises(UserError, match=r"ia3 acts on linear layers; .*LayerNorm is of kind norm"):
        attach(model("bert"), {"a": Ia3Config(sites=("norm.attention",))})


@pytest.mark.parametrize(
    ("family", "role", "layer"), [("gpt2", "attention.query", "c_attn"), ("phi3", "feedforward.input", "gate_up_proj")]
)
@torch.no_grad()
def test_ia3_scales_the_input_of_whole_layers_alone(family: str, role: str, layer: str) -> None:
    with pytest.raises(UserError, match=rf"0\.{role} is a part of \S+{layer}; name the layer, \"{layer}\""):
        attach(model(family), {"a": Ia3Config(sites=(role,), inputs=(role,))})
    attached = attach(model(family), {"a": Ia3Config(sites=(layer,), inputs=(layer,))})
    randomise_runs(attached)
    wanted, merged = found(attached), attached.merged("a")
    attached.detach().load_state_dict(merged, strict=False)
    assert near(plainly(attached.base, TEXTS), wanted)


def test_ia3_refuses_inputs_that_are_no_chosen_site() -> None:
    with pytest.raises(UserError, match=r'inputs "attention\.output" is none of the 4 chosen sites'):
        attach(
            model("bert"), {"a": Ia3Config(sites=("attention.key", "attention.value"), inputs=("attention.output",))}
        )


@pytest.mark.parametrize("family", BASIC)
def test_dora_without_a_gradient_gives_what_it_gives_with_one_after_every_change(family: str) -> None:
    attached = attach(model(family), {"a": DORA, "b": DORA})
    for std in (0.1, 0.2, 0.3):
        randomise_runs(attached, std=std)
        for run in ("a", "b"):
            wanted = [row.detach() for row in found(attached, run)]
            for _ in range(2):
                with torch.no_grad():
                    assert near(found(attached, run), wanted)
            with torch.inference_mode():
                assert near(found(attached, run), wanted)
    attached.load("b", attached.parameters_of("a"))
    with torch.no_grad():
        assert near(found(attached, "b"), found(attached, "a"), 0.0)


def test_dora_trains_after_it_answered_in_inference_mode() -> None:
    attached = attach(model("bert"), {"a": DORA})
    with torch.inference_mode():
        found(attached)
    sum(row.sum() for row in found(attached)).backward()
    own = {name: value for name, value in attached.parameters_of("a").items() if "pooler" not in name}
    assert all(value.grad is not None for value in own.values())


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_dora_in_training_sees_what_an_optimizer_writes_unseen(mode: str) -> None:
    """Some kernels write to a tensor without its version's knowing."""
    attached, fresh = attach(model("bert"), {"a": DORA}).train(), attach(model("bert"), {"a": DORA})
    with getattr(torch, mode)():
        before = found(attached)
        for value in attached.parameters_of("a").values():
            value.data.add_(0.5)
        after = found(attached)
        fresh.load("a", attached.parameters_of("a"))
        assert near(after, found(fresh))
    assert not near(after, before, 1e-2)


def test_doras_norm_is_a_number_to_the_gradient() -> None:
    """With W' = m V / n and n fixed, up's gradient lies along V too, which the gradient through n would take away."""
    weight, bias = torch.randn(4, 3).double(), torch.randn(4).double()
    magnitude = weight.norm(dim=1)
    down, x = torch.randn(2, 3).double(), torch.randn(5, 3).double()
    up = (0.1 * torch.randn(4, 2).double()).requires_grad_()
    changed = weight + 2 * up @ down
    y = x @ (magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True).detach()).T + bias
    (wanted,) = torch.autograd.grad(y.square().sum(), up)

    base = torch.nn.Linear(3, 4).double()
    base.weight.data, base.bias.data = weight, bias
    gain = magnitude / _dora.norms(weight, down[None], up[None].detach(), torch.tensor([2.0]).double())
    scale = torch.tensor([2.0]).double()
    y = base(x)[None]
    ours = _dora.decomposed(y, y, bias, x[None], down[None], up[None], scale, gain)
    (gradient,) = torch.autograd.grad(ours.square().sum(), up)
    assert torch.allclose(gradient, wanted, atol=1e-12)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", BASIC)
def test_pissa_is_kept_as_a_plain_lora_of_twice_the_rank(family: str, rslora: bool) -> None:
    config = LoraConfig(
        rank=2,
        alpha=3,
        rslora=rslora,
        init="pissa",
        sites="all-linear",
        rank_pattern={"feedforward.input": 3},
        alpha_pattern={"feedforward.output": 5},
    )
    attached = attach(model(family), {"a": config})
    randomise_runs(attached)
    plain = kept(config)
    assert (plain.init, plain.rank, plain.rank_pattern) == ("kaiming", 4, {"feedforward.input": 6})
    again = attach(model(family), {"b": plain})
    again.load("b", attached.kept("a"))
    with torch.no_grad():
        assert near(found(again, "b"), found(attached))


def test_pissa_by_iterations_leaves_hardly_more_of_the_weight_than_the_whole_decomposition() -> None:
    sites = Sites(model("bert"))
    for site in sites.with_roles(["attention.query", "feedforward.output"]):
        weight = sites.weight(site)()
        best = torch.linalg.svdvals(weight)[2:].norm()
        for iterations, most in ((None, 1.0001), (4, 1.05), (16, 1.01)):
            down, up = _pissa.principal(weight, 2, 0.5, iterations, seed=1)
            assert (weight - 0.5 * up @ down).norm() < most * best


def test_pissa_by_iterations_is_fixed_by_the_runs_seed_and_leaves_the_global_generator_alone() -> None:
    def start(seed: int) -> Tensor:
        base = model("bert")
        state = torch.get_rng_state()
        config = LoraConfig(rank=2, alpha=2, init="pissa", pissa_iterations=1)
        attached = attach(base, {"a": config}, seeds={"a": seed})
        assert torch.equal(torch.get_rng_state(), state)
        assert near(found(attached), plainly(model("bert"), TEXTS))
        return torch.cat([value.detach().flatten() for value in attached.parameters_of("a").values()])

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_a_gaussian_start_has_a_deviation_of_one_over_the_rank() -> None:
    config = LoraConfig(rank=400, init="gaussian")
    tensors = attach(model("bert"), {"a": config}).parameters_of("a")
    down = torch.cat([value.detach().flatten() for name, value in tensors.items() if name.endswith("down")])
    assert float(down.std()) == pytest.approx(1 / 400, rel=0.05)


def test_lora_on_the_embedding_starts_with_a_zero_down_and_a_normal_up() -> None:
    tensors = attach(model("bert"), {"a": LoraConfig(rank=400, sites=EMBEDDING)}).parameters_of("a")
    assert tensors["embedding.down"].shape == (400, VOCABULARY)
    assert tensors["embedding.down"].count_nonzero() == 0
    assert float(tensors["embedding.up"].detach().std()) == pytest.approx(1, rel=0.05)


def test_lora_plus_multiplies_the_rate_of_up_in_linear_layers_alone() -> None:
    config = LoraConfig(plus=16, sites=("embedding", "attention.query"))
    attached = attach(model("bert"), {"a": config, "b": LoraConfig()})
    assert attached.rates_of("a") == {f"{layer}.attention.query.up": 16.0 for layer in range(2)}
    assert attached.rates_of("b") == {}
    parameters = attached.parameters_of("a")
    made = optimizer(parameters, TrainingConfig(), 1e-3, 5e-3, attached.rates_of("a"))
    names = {id(value): name for name, value in parameters.items()}
    rates = {names[id(value)]: group["lr"] for group in made.param_groups for value in group["params"]}
    assert rates == {name: pytest.approx(1e-3 * (16 if name.endswith("query.up") else 1)) for name in parameters}
