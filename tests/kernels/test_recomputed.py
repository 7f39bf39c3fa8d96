"""Outputs of norms and activations that are computed again: the same bits, for what is still as it was made."""

import gc

import pytest
import torch
from torch import Tensor, nn

from graftlm.kernels import low_rank, recomputable, recomputed, watch
from graftlm.methods import attach, parse
from tiny import TABLED, batch_of, model, output, randomise_runs, real_of, sparing, texts


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("family", sparing(TABLED))
def test_gradients_are_bit_for_bit_those_of_kept_outputs(
    family: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sites": "all-linear", "rank": 3}
    attached = attach(model(family), {"a": parse("lora", options), "b": parse("lora", options)}).train()
    randomise_runs(attached)
    attached.quicken()
    batch, names = batch_of(attached.base, texts(4)), ["a", "a", "b", "b"] if together else ["a"] * 4
    used: list[bool] = []
    known = recomputed.source_of

    def passed(again: bool) -> dict[str, Tensor]:
        def source(x: Tensor) -> tuple[recomputed.Source, Tensor] | None:
            used.append((found := known(x)) is not None)
            return found if again else None

        monkeypatch.setattr(low_rank, "source_of", source)
        with attached.route(names):
            output(attached(**batch))[real_of(batch)].pow(2).mean().backward()
        found = {}
        for name, value in attached.parameters_of("a").items():
            if value.grad is not None:
                found[name], value.grad = value.grad, None
        return found

    kept, made = passed(False), passed(True)
    assert any(used)
    assert all(torch.equal(made[name], value) for name, value in kept.items())
    gc.collect()
    assert not recomputed._known


def after(norm: nn.Module, x: Tensor, change: str) -> Tensor | None:
    y = norm(x)
    if change == "written to":
        y.mul_(2)
    shapes = {"whole": y, "another shape": y.view(1, 6, 8), "a part": y[:1], "turned": y.mT}
    found = recomputed.source_of(shapes.get(change, y))
    return None if found is None else found[0].again(found[1])


@pytest.mark.parametrize("change", ["whole", "another shape", "a part", "turned", "written to"])
def test_only_a_whole_output_that_nobody_wrote_to_is_made_again(change: str) -> None:
    norm = nn.LayerNorm(8).requires_grad_(False)
    x = torch.randn(2, 3, 8, requires_grad=True)
    handle = watch(norm)
    made = after(norm, x, change)
    assert (made is not None) == (change in ("whole", "another shape"))
    assert made is None or torch.equal(made, norm(x))
    with torch.no_grad():
        assert after(norm, x, "whole") is None
    assert after(norm, x.detach(), "whole") is None
    handle.remove()
    assert after(norm, x, "whole") is None


def test_an_output_is_made_once_for_all_that_wait_for_it() -> None:
    source, x = recomputed.Source(nn.GELU(), waiting=2), torch.randn(4)
    first = source.again(x)
    assert source.again(x) is first
    assert source.again(x) is not first  # a graph that is gone through twice


def test_a_second_derivative_goes_through_what_is_made_again() -> None:
    norm = nn.LayerNorm(4).double().requires_grad_(False)
    handle = watch(norm)
    down, up = torch.randn(1, 2, 4, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    y, scale = torch.zeros(1, 5, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    down.requires_grad_()

    def changed(x: Tensor, down: Tensor) -> Tensor:
        return low_rank.add_low_rank(y, norm(x), down, up, scale).square()

    x = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(changed, (x, down))
    handle.remove()


def test_a_trained_norm_and_an_activation_that_keeps_its_output_are_not_made_again() -> None:
    assert recomputable(nn.LayerNorm(4).requires_grad_(False))
    assert not recomputable(nn.LayerNorm(4))
    assert not recomputable(nn.ReLU())
    assert not recomputable(nn.Tanh())
