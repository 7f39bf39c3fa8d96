"""A run that is folded into the base: the same logits, the bare base's layers, and every bit back at the end."""

from typing import Any

import pytest
import torch

import tiny
from graftlm.methods import attach
from graftlm.methods import parse as method_of

FOLDED = [("bert", "lora"), ("gpt2", "ia3"), ("phi3", "lora"), ("t5", "lora"), ("llama", "lora"), ("bert", "bitfit")]
KEPT = [("bert", "prefix"), ("bert", "adapter"), ("bert", "unipelt"), ("gpt2", "prompt-tuning"), ("bert", "full")]


def made(family: str, method: str) -> tuple[Any, dict[str, torch.Tensor], dict[str, Any]]:
    base = tiny.model(family)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    attached = attach(base, {"run": method_of(method, {})})
    tiny.randomise_runs(attached)
    return attached.eval(), before, tiny.batch_of(base, tiny.texts(3))


@torch.no_grad()
@pytest.mark.parametrize(("family", "method"), FOLDED)
def test_a_folded_run_gives_its_states_by_the_bases_own_layers(family: str, method: str) -> None:
    attached, before, batch = made(family, method)
    kinds = {path: type(module) for path, module in tiny.model(family).named_modules()}
    expected = tiny.output(attached(**batch))
    assert attached.fold("run")
    assert {path: type(module) for path, module in attached.base.named_modules()} == kinds
    for quick in (False, True):
        if quick:
            attached.quicken()
        assert torch.allclose(tiny.output(attached(**batch)), expected, atol=2e-5, rtol=1e-4)
    base = attached.detach()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(("family", "method"), KEPT)
def test_a_run_that_no_weight_can_express_is_left_as_it_is(family: str, method: str) -> None:
    attached, _, batch = made(family, method)
    expected = tiny.output(attached(**batch))
    assert not attached.fold("run")
    assert torch.equal(tiny.output(attached(**batch)), expected)


def test_runs_that_share_a_base_are_not_folded() -> None:
    attached = attach(tiny.model("bert"), {name: method_of("lora", {}) for name in ("one", "other")})
    assert not attached.fold("one")
