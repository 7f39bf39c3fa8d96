"""What a run's rows never take from the rows beside them: virtual tokens, NaN, graphs, or what was attached before."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.methods import attach
from graftlm.methods.prefix import PrefixConfig
from tiny import (
    BASIC,
    LAYERS,
    METHODS,
    SHARING,
    TABLED,
    batch_of,
    fits,
    model,
    output,
    outputs,
    padded,
    randomise_runs,
    sparing,
    texts,
    virtual,
)


def methods_of(family: str) -> list[str]:
    return [method for method in SHARING if fits(family, method)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", BASIC)
@torch.no_grad()
def test_bare_rows_beside_virtual_tokens_keep_their_bits(family: str, side: str) -> None:
    base, runs = model(family), methods_of(family)
    attached = attach(base, {run: METHODS[run] for run in runs})
    randomise_runs(attached)
    names: list[str | None] = [None, *runs, None, *reversed(runs), None]
    rows = texts(len(names))
    batch = padded([virtual(attached, name) + row for name, row in zip(names, rows, strict=True)], side)
    with attached.route(names):
        among = output(attached(**batch))
    with attached.route([None] * len(names)):
        bare = output(attached(**batch))
    attached.detach()
    for index, name in enumerate(names):
        if name is None:
            real = batch["attention_mask"][index].bool()
            assert torch.equal(among[index, real], bare[index, real])
            assert torch.allclose(among[index, real], output(base(torch.tensor([rows[index]])))[0], atol=1e-5)


@pytest.mark.parametrize("family", sparing(TABLED))
@torch.no_grad()
def test_beside_a_prefix_a_base_that_was_loaded_with_eager_attention_computes_by_it(family: str) -> None:
    prefixes = {name: PrefixConfig(length=length, reparametrisation="none") for name, length in (("a", 2), ("b", 3))}
    names, rows, found = ["a", None, "b"], texts(3, low=5, high=5), {}
    for kind in ("sdpa", "eager"):
        base = model(family)
        base.set_attn_implementation(kind)
        batch = batch_of(base, rows)
        plain = output(base(**batch))
        attached = attach(base, prefixes)
        randomise_runs(attached)
        with attached.disabled():
            assert torch.equal(output(attached(**batch)), plain)
        with attached.route(names):
            found[kind] = output(attached(**batch))
        assert torch.equal(found[kind][1], plain[1])
    assert torch.allclose(found["sdpa"], found["eager"], atol=1e-5)


def test_a_prefix_is_refused_by_name_at_attention_of_another_kind() -> None:
    base = model("llama")
    base.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match="attn_implementation = flex_attention takes no prefix; load the model with sd"):
        attach(base, {"a": METHODS["prefix"]})


def losses(family: str, runs: list[str], sick: str | None, mixed: bool) -> dict[str, dict[str, Tensor]]:
    """Every run's tensors after two steps of Adam, with one run's tensors NaN from the start."""
    attached = attach(model(family), {run: METHODS[run] for run in runs}).train()
    randomise_runs(attached)
    if sick is not None:
        for tensor in attached.parameters_of(sick).values():
            tensor.data.fill_(torch.nan)
    optimizers = [torch.optim.Adam(attached.parameters_of(run).values(), lr=0.01) for run in runs]
    names = [run for _ in range(2) for run in runs] if mixed else [run for run in runs for _ in range(2)]
    for step in range(2):
        with attached.route(names):
            rows = outputs(attached, names, texts(len(names), seed=step))
        sum((row.pow(2).mean() for row in rows), torch.zeros(())).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return {run: {name: x.detach() for name, x in attached.parameters_of(run).items()} for run in runs}


@pytest.mark.parametrize(("family", "mixed"), [("bert", False), ("gpt2", True), ("llama", False)])
def test_nan_in_any_one_run_leaves_all_others_bits_as_they_are(family: str, mixed: bool) -> None:
    runs = methods_of(family)
    healthy = losses(family, runs, None, mixed)
    for sick in runs:
        found = losses(family, runs, sick, mixed)
        assert all(x.isnan().any() for x in found[sick].values())
        for run in runs:
            if run != sick:
                assert all(torch.equal(x, healthy[run][name]) for name, x in found[run].items()), (sick, run)


@pytest.mark.parametrize("family", BASIC)
def test_a_base_that_had_other_runs_before_is_as_good_as_new(family: str) -> None:
    base = model(family)
    paths = [path for path, _ in base.named_modules()]
    rounds = [methods_of(family)[::2], methods_of(family)[1::2]]
    for runs in (*rounds, *rounds):
        found = []
        for on in (base, model(family)):
            attached = attach(on, {run: METHODS[run] for run in runs})
            randomise_runs(attached)
            with torch.no_grad():
                found.append(outputs(attached, runs, texts(len(runs))))
            attached.detach()
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert [path for path, _ in base.named_modules()] == paths


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("family", BASIC)
def test_runs_that_are_let_go_leave_nothing_in_memory(family: str, detached: bool) -> None:
    base = model(family)
    attached = attach(base, {run: METHODS[run] for run in methods_of(family)}).train()
    outputs(attached, ["lora"], texts(1))[0].sum().backward()
    left = [weakref.ref(attached), *(weakref.ref(bank) for bank in attached.banks)]
    if detached:
        attached.detach()
    else:
        left.append(weakref.ref(base))
        del base
    del attached
    gc.collect()
    assert not any(reference() for reference in left)


@pytest.mark.parametrize("family", BASIC)
def test_training_the_top_layer_keeps_no_graph_below_it(family: str) -> None:
    attached = attach(model(family), {"a": METHODS["top-k"]}).train()
    seen: list[bool] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].requires_grad)

    for path in attached.sites.blocks:
        attached.base.get_submodule(path).register_forward_pre_hook(note)
    assert output(attached(**padded(texts(2)))).requires_grad
    assert seen == [False] * LAYERS
