"""Each table's claims, checked by editing the rows that a role names; and what becomes of a model without a table."""

import copy

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.methods import attach
from graftlm.methods._deltas import bias_delta, norm_delta
from graftlm.methods.lora import LoraConfig
from graftlm.sites import Attached, Branch, Param, Site, Sites, Tensors, View
from tiny import (
    LAYERS,
    METHODS,
    TABLED,
    UNTABLED,
    WIDTH,
    batch_of,
    config_of,
    fits,
    model,
    output,
    padded,
    real_of,
    texts,
)

TEXTS = texts(3, low=4, high=8)


def add_linear(view: View, p: Tensors) -> Tensor:
    return view.y + view.x @ p["delta"].mT


def add_embedding(view: View, p: Tensors) -> Tensor:
    return view.y + p["delta"][0].T[view.x[..., 0]]


def delta(*shape: int) -> Param:
    return Param(shape, lambda generator: torch.randn(shape, generator=generator) * 0.1)


def weight_edit(site: Site) -> Branch:
    forward = add_embedding if site.kind == "embedding" else add_linear
    return Branch(site, {"delta": delta(site.d_out, site.d_in)}, forward)


@torch.no_grad()
def edited(base: nn.Module, site: Site, tensors: dict[str, Tensor]) -> nn.Module:
    """A copy of the base with the site's own rows changed; a tied weight is changed here alone."""
    made = copy.deepcopy(base)
    module = made.get_submodule(site.module)
    for part, change in tensors.items():
        name = "weight" if part == "delta" else part
        value = getattr(module, name).detach().clone()
        outputs_last = value.T if name == "weight" and isinstance(module, nn.Linear) else value
        outputs_last[..., places(base, site, outputs_last.shape[-1])] += change.T if change.dim() == 2 else change
        setattr(module, name, nn.Parameter(value))
    return made


def places(base: nn.Module, site: Site, width: int) -> Tensor:
    """The outputs of a fused layer that a role is, written out by family."""
    config, every = base.config, torch.arange(width)
    kind = {"query": 0, "key": 1, "value": 2, "gate": 0, "input": 1}.get(site.role.split(".")[-1], 0)
    leaf = site.module.split(".")[-1]
    if leaf in ("c_attn", "Wqkv"):
        return every[kind * WIDTH : (kind + 1) * WIDTH]
    if leaf in ("Wi", "gate_up_proj"):
        return every[kind * 24 : (kind + 1) * 24]
    if leaf == "qkv_proj":
        head = WIDTH // config.num_attention_heads
        bounds = [0, WIDTH, WIDTH + config.num_key_value_heads * head, width]
        return every[bounds[kind] : bounds[kind + 1]]
    if leaf == "query_key_value":
        head = WIDTH // config.num_attention_heads
        return torch.tensor([place for place in range(width) if place // head % 3 == kind])
    return every


def same_as_edited(base: nn.Module, site: Site, act: Branch) -> bool:
    attached = Attached(Sites(base), {"a": [act]}, {"a": 0})
    tensors = {name.removeprefix(f"{site.name}."): value for name, value in attached.parameters_of("a").items()}
    for value in tensors.values():
        value.data.copy_(torch.randn(value.shape) * 0.1)
    batch = batch_of(base, TEXTS)
    with torch.no_grad():
        found = output(attached(**batch))
        plain = output(attached.detach()(**batch))
        wanted = output(edited(base, site, tensors)(**batch))
    real = real_of(batch)
    assert not torch.allclose(plain[real], wanted[real], atol=1e-6), "the edit changes nothing"
    return torch.allclose(found[real], wanted[real], atol=1e-9, rtol=0)


def sites_of(kind: str) -> list[tuple[str, bool, str]]:
    """(family, with an LM head, site) for every site whose output the model's output depends on."""
    found = []
    for family in TABLED:
        for lm in (False, True):
            sites = Sites(model(family, lm=lm))
            own = {"bias": sites.biased()}.get(kind) or [site for site in sites.all if site.kind == kind]
            wanted = [site for site in own if (site.role == "lm_head" or not lm) and site.role != "pooler"]
            found += [(family, lm, site.name) for site in wanted]
    return found


def site_named(base: nn.Module, name: str) -> Site:
    return next(site for site in Sites(base).all if site.name == name)


@pytest.mark.parametrize(("family", "lm", "name"), sites_of("linear") + sites_of("embedding"))
def test_a_change_at_a_role_is_an_edit_of_just_its_rows(family: str, lm: bool, name: str) -> None:
    base = model(family, lm=lm, dtype=torch.float64)
    site = site_named(base, name)
    assert same_as_edited(base, site, weight_edit(site))


@pytest.mark.parametrize(("family", "lm", "name"), sites_of("norm"))
def test_a_norm_delta_is_an_edit_of_the_norm(family: str, lm: bool, name: str) -> None:
    base = model(family, lm=lm, dtype=torch.float64)
    site = site_named(base, name)
    assert same_as_edited(base, site, norm_delta(site))


def moves_attention(case: tuple[str, bool, str]) -> bool:
    """Softmax takes no notice of a key's bias."""
    return not case[2].endswith(".key")


@pytest.mark.parametrize(("family", "lm", "name"), list(filter(moves_attention, sites_of("bias"))))
def test_a_bias_delta_is_an_edit_of_the_bias(family: str, lm: bool, name: str) -> None:
    base = model(family, lm=lm, dtype=torch.float64)
    site = site_named(base, name)
    assert same_as_edited(base, site, bias_delta(site))


def test_the_pooler_is_a_site() -> None:
    base = model("bert", dtype=torch.float64)
    site = site_named(base, "pooler")
    attached = Attached(Sites(base), {"a": [weight_edit(site)]}, {"a": 0})
    with torch.no_grad():
        batch = padded(TEXTS)
        found = attached(**batch).pooler_output
        tensors = {"delta": attached.parameters_of("a")["pooler.delta"]}
        wanted = edited(attached.detach(), site, tensors)(**batch).pooler_output
    assert torch.allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("family", TABLED)
def test_every_role_of_a_table_exists_in_every_layer(family: str) -> None:
    sites = Sites(model(family, lm=True))
    table = sites.table
    assert table is not None
    for name, stack in table.stacks.items():
        layers = sorted(set(stack.calls or range(LAYERS)))
        for role in (*stack.layer, *stack.spans):
            full = f"{name}.{role}" if name else role
            found = [site.layer for site in sites.with_roles([full])]
            without = family == "modernbert" and role == "norm.attention"  # its first layer has none
            assert found == layers[without:], role


def test_norms_that_have_no_weights_are_no_sites() -> None:
    sites = Sites(model("opt", enable_bias=False, layer_norm_elementwise_affine=False))
    assert not sites.norms()
    assert len(sites.linear()) == 6 * LAYERS


def found_by_peft(base: nn.Module, targets: list[str] | str) -> set[str]:
    return set(peft.get_peft_model(base, peft.LoraConfig(target_modules=targets)).base_model.targeted_module_names)


TARGETS = [
    ("bert", ["dense"]),
    ("bert", ["query", "value"]),
    ("bert", ["attention.output.dense", "encoder.layer.1.output.dense"]),
    ("bert", r".*layer\.0\..*(query|key)"),
    ("bert", "all-linear"),
    ("gpt2", ["c_attn", "c_fc"]),
    ("gpt2", ["attn.c_proj"]),
    ("gpt2", r".*h\.1\..*c_proj"),
    ("gpt2", "all-linear"),
    ("llama", ["q_proj", "down_proj"]),
    ("llama", r".*\.(k|v)_proj"),
    ("llama", "all-linear"),
    ("distilbert", ["q_lin"]),
    ("distilbert", "all-linear"),
    ("opt", ["fc1", "out_proj"]),
    ("opt", "all-linear"),
    *((family, "all-linear") for family in TABLED if family not in ("bert", "gpt2", "llama", "distilbert", "opt")),
]
POOLERS = {("roberta", False): {"pooler.dense"}}  # its own classifier does not read it


@pytest.mark.parametrize("lm", [False, True])
@pytest.mark.parametrize(("family", "targets"), TARGETS)
def test_names_as_peft_takes_them_mean_the_modules_that_peft_finds(
    family: str, targets: list[str] | str, lm: bool
) -> None:
    base = model(family, lm=lm)
    found = {site.module for site in Sites(base).select(targets)}
    assert found == found_by_peft(base, targets) - POOLERS.get((family, lm), set())


def test_a_fused_layer_named_whole_is_one_site() -> None:
    found = Sites(model("gpt2")).select(["c_attn"])
    assert [site.d_out for site in found] == [3 * WIDTH] * LAYERS


@pytest.mark.parametrize(
    ("family", "targets", "near"),
    [
        ("bert", ["querry"], "query"),
        ("bert", ["attention.querry"], "attention.query"),
        ("llama", ["q_prj"], "q_proj"),
        ("gpt2", "c_attm", "c_attn"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(family: str, targets: list[str] | str, near: str) -> None:
    with pytest.raises(UserError, match=f'did you mean "{near}"'):
        Sites(model(family)).select(targets)


def test_a_role_that_a_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r'gpt2 has no site "feedforward.gate"'):
        Sites(model("gpt2")).select(["feedforward.gate"])


@pytest.mark.parametrize(("family", "half"), [("t5", "T5EncoderModel"), ("bart", "BartForCausalLM")])
def test_half_of_an_encoder_decoder_is_refused_by_name(family: str, half: str) -> None:
    with pytest.raises(UserError, match=f'a {half} is not all of what the table of "{family}" names: .* has no attr'):
        attach(getattr(transformers, half)(config_of(family)), {"a": LoraConfig()})


@pytest.mark.parametrize("family", UNTABLED)
def test_a_model_without_a_table_says_so_and_takes_roles_for_every_linear_layer(family: str) -> None:
    sites = Sites(model(family))
    assert sites.notice is not None
    assert f'no table for the architecture "{family}"' in sites.notice
    assert sites.select(LoraConfig().sites) == sites.linear()
    assert len(sites.linear()) == 6 * LAYERS


@pytest.mark.parametrize("family", TABLED)
def test_a_model_with_a_table_needs_no_notice(family: str) -> None:
    assert Sites(model(family)).notice is None


@pytest.mark.parametrize("family", UNTABLED)
@pytest.mark.parametrize("method", [name for name in METHODS if not fits("gptj", name)])
def test_a_method_that_needs_a_table_refuses_a_model_without_one_by_name(family: str, method: str) -> None:
    with pytest.raises(UserError, match=f'"{family}",? (which )?has no table'):
        attach(model(family), {"a": METHODS[method]})
