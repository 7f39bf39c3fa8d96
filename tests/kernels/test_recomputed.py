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
        def source(x: Tensor) -> recomputed.Source | None:
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
    source = recomputed.source_of(shapes.get(change, y))
    return None if source is None else source.again(source.input)


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
    source = recomputed.Source(nn.GELU(), torch.randn(4), waiting=2)
    first = source.again(source.input)
    assert source.again(source.input) is first
    assert source.again(source.input) is not first  # a graph that is gone through twice


def test_a_trained_norm_and_an_activation_that_keeps_its_output_are_not_made_again() -> None:
    assert recomputable(nn.LayerNorm(4).requires_grad_(False))
    assert not recomputable(nn.LayerNorm(4))
    assert not recomputable(nn.ReLU())
    assert not recomputable(nn.Tanh())
