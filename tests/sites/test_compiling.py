"""torch.compile: one graph for mixed batches of any shape, forward and backward, in whatever order the runs stand."""

import shutil
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from graftlm.methods import MethodConfig, attach
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.unipelt import UnipeltConfig
from graftlm.sites import Attached, row_keys
from tiny import BASIC, TABLED, batch_of, model, output, padded, randomise_runs, real_of, sparing, texts, virtual

RUNS: Mapping[str, MethodConfig] = {
    "lora": LoraConfig(rank=2, dropout=0.2),
    "other": LoraConfig(rank=3),
    "pfeiffer": AdapterConfig(bottleneck=3, dropout=0.3),
    "prefix": PrefixConfig(length=3, hidden=5, dropout=0.2),
    "shorter": PrefixConfig(length=2, hidden=5),
    "prompt": PromptTuningConfig(length=3),
    "unipelt": UnipeltConfig(bottleneck=3, length=2, hidden=4, rank=2),
}
Names = list[str | None]
ROUTES: Mapping[str, Callable[[int], Names]] = {
    "run after run": lambda rows: [
        run for run in ("lora", "pfeiffer", None, "prefix", "prompt", "unipelt") for _ in range(rows)
    ],
    # two runs that share their banks alternate; LoRA's bank has two chunks
    "interleaved": lambda rows: [
        *(["lora", "other"] * rows),
        *([None] * rows),
        *(["prefix", "shorter"] * rows),
        *(["prompt"] * rows),
        *(["other", "lora"] * rows),
    ],
    # runs of unlike methods alternate, and lie in as many stretches as there are rows
    "alternating": lambda rows: ["lora", "pfeiffer", None, "unipelt", "prefix", "prompt"] * rows,
    "a row each": lambda rows: ["lora", "pfeiffer", None, "unipelt", "prefix", "prompt"],
}
WARM_UP = [(2, 7), (3, 8)]  # rows of each run, tokens
FIVE_SHAPES = [(4, 5), (2, 11), (5, 6), (6, 9), (7, 4)]


@pytest.fixture
def _dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.config.error_on_recompile = False
    torch._dynamo.reset()


def meet(attached: Attached, through: nn.Module, names: Names, tokens: int) -> dict[str, Tensor]:
    """The outputs at real tokens of a batch of about `tokens` tokens, and in training each run's gradients."""
    own = zip(names, texts(len(names), low=3, high=tokens), strict=True)
    batch = padded([virtual(attached, run) + text for run, text in own], to=tokens + 3)
    attached.route(names, row_keys(1, 2, torch.arange(len(names))))
    found = {"outputs": output(through(**batch))[batch["attention_mask"].bool()]}
    if attached.training:
        found["outputs"].pow(2).mean().backward()
        for run in attached.runs:
            for name, value in attached.parameters_of(run).items():
                if value.grad is not None:
                    found[f"{run}/{name}"], value.grad = value.grad, None
    return found


@pytest.mark.usefixtures("_dynamo")
@pytest.mark.parametrize(
    ("family", "order", "training"),
    [
        ("bert", "alternating", True),
        pytest.param("bert", "run after run", False, marks=pytest.mark.slow),
        pytest.param("gpt2", "interleaved", True, marks=pytest.mark.slow),
        ("llama", "a row each", True),
    ],
)
def test_a_compiled_model_meets_mixed_batches_of_new_shapes_without_a_break_or_a_recompilation(
    family: str, order: str, training: bool
) -> None:
    """In training the backward pass is compiled too, and its gradients are those of the eager model."""
    met = set(ROUTES[order](1))
    configs = {run: config for run, config in RUNS.items() if run in met}
    attached = attach(model(family, num_hidden_layers=1), configs).train(training)
    randomise_runs(attached)
    compiled = torch.compile(attached, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(training):
        for rows, tokens in WARM_UP + FIVE_SHAPES:
            torch._dynamo.config.error_on_recompile = (rows, tokens) in FIVE_SHAPES
            names = ROUTES[order](rows)
            found, wanted = (meet(attached, through, names, tokens) for through in (compiled, attached))
            assert found.keys() == wanted.keys()
            assert (len(found) > 1) == training
            for name, value in wanted.items():
                assert torch.allclose(found[name], value, atol=1e-4), name
    assert not counters["graph_break"]


@pytest.mark.usefixtures("_dynamo")
@pytest.mark.parametrize(
    "family", sparing((family for family in TABLED if family not in BASIC), fast=("albert", "modernbert", "phi3"))
)
def test_every_family_compiles_whole_with_lora_and_a_prefix(family: str) -> None:
    attached = attach(model(family, num_hidden_layers=1), {run: RUNS[run] for run in ("lora", "prefix")})
    randomise_runs(attached)
    compiled = torch.compile(attached, backend="aot_eager", fullgraph=True)
    batch = batch_of(attached.base, texts(4), to=9)
    attached.route(["lora", "lora", "prefix", "prefix"])
    found, wanted = output(compiled(**batch)), output(attached(**batch))
    assert torch.allclose(found[real_of(batch)], wanted[real_of(batch)], atol=1e-4)
    assert not counters["graph_break"]


@pytest.mark.usefixtures("_dynamo")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and there is no g++ here")
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_inductor_gives_the_eager_models_outputs_and_gradients(family: str) -> None:
    attached = attach(model(family, num_hidden_layers=1), {run: RUNS[run] for run in ("lora", "prefix")}).train()
    randomise_runs(attached)
    compiled = torch.compile(attached, fullgraph=True)
    found, wanted = (meet(attached, through, ["lora", "lora", "prefix"], 6) for through in (compiled, attached))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-4), name
