"""Many runs in one batch: each row has what it would have alone, and each training goes as it would alone."""

import random
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from graftlm.core.settings import TrainingConfig
from graftlm.methods import MethodConfig, attach
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.ia3 import Ia3Config
from graftlm.methods.instance_prompt import InstancePromptConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.mam import MamConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.ptuning import PtuningConfig
from graftlm.methods.ptuning_v2 import PtuningV2Config
from graftlm.methods.union import UnionConfig
from graftlm.methods.unipelt import UnipeltConfig
from graftlm.sites import Attached, row_keys
from graftlm.training._optim import optimizer, optimizers
from tiny import (
    BIASLESS,
    HOULSBY,
    LEFT_PADDED,
    LORA,
    PREFIX,
    TABLED,
    batch_of,
    model,
    output,
    outputs,
    plainly,
    randomise_runs,
    sparing,
    texts,
)

RUNS: Mapping[str, MethodConfig] = {
    "lora-2": LoraConfig(rank=2, alpha=4, dropout=0.2),
    "lora-4": LoraConfig(rank=4, alpha=4, dropout=0.5),
    "lora-all": LoraConfig(rank=3, sites="all-linear", rank_pattern={"attention.query": 1}),
    "rslora": LoraConfig(rank=3, rslora=True, init="gaussian"),
    "dora-2": LoraConfig(rank=2, alpha=4, dora=True, dropout=0.2),
    "dora-4": LoraConfig(rank=4, alpha=4, dora=True, sites="all-linear", rank_pattern={"attention.value": 1}),
    "pissa-2": LoraConfig(rank=2, alpha=2, init="pissa", dropout=0.2),
    "pissa-4": LoraConfig(rank=4, alpha=4, init="pissa", pissa_iterations=4),
    "embedding-2": LoraConfig(rank=2, alpha=1, sites=("embedding", "attention.query")),
    "embedding-3": LoraConfig(rank=3, alpha=1, sites=("embedding",)),
    "ia3": Ia3Config(),
    "ia3-keys": Ia3Config(sites=("attention.key",)),
    "bitfit": BitfitConfig(),
    "houlsby-3": AdapterConfig(variant="houlsby", bottleneck=3, dropout=0.3),
    "houlsby-5": AdapterConfig(variant="houlsby", bottleneck=5, layer_norms=False),
    "pfeiffer-4": AdapterConfig(bottleneck=4, dropout=0.1),
    "pfeiffer-2": AdapterConfig(bottleneck=2, activation="tanh"),
    "parallel": AdapterConfig(variant="parallel", bottleneck=3, scale=0.5),
    "prefix-mlp-3": PrefixConfig(length=3, hidden=5, dropout=0.2),
    "prefix-mlp-5": PrefixConfig(length=5, hidden=4),
    "prefix-2": PrefixConfig(length=2, reparametrisation="none"),
    "prefix-4": PrefixConfig(length=4, reparametrisation="none", position_shift=False, dropout=0.4),
    "prompt-2": PromptTuningConfig(length=2),
    "prompt-5": PromptTuningConfig(length=5, position_shift=False),
    "prompt-mlp": PromptTuningConfig(length=3, reparametrisation="mlp", hidden=5),
    "prompt-residual": PromptTuningConfig(length=4, reparametrisation="residual", hidden=3),
    "ptuning-v2-3": PtuningV2Config(length=3),
    "ptuning-v2-5": PtuningV2Config(length=5, dropout=0.3, position_shift=False),
    "ptuning-v2-mlp": PtuningV2Config(length=2, reparametrisation="mlp", hidden=3),
    "ptuning-3": PtuningConfig(length=3, hidden=4),
    "ptuning-3-wide": PtuningConfig(length=3, hidden=6),
    "ptuning-2": PtuningConfig(length=2),
    "ptuning-mlp-2": PtuningConfig(length=2, encoder="mlp", hidden=5, position_shift=False),
    "ptuning-mlp-4": PtuningConfig(length=4, encoder="mlp"),
    "instance-2": InstancePromptConfig(length=2, bottleneck=5),
    "instance-4": InstancePromptConfig(length=4, bottleneck=3),
    "unipelt-3": UnipeltConfig(bottleneck=4, length=3, hidden=5, rank=2),
    "unipelt-2": UnipeltConfig(bottleneck=2, length=2, reparametrisation="none", rank=3),
    "unipelt-ap": UnipeltConfig(variant="ap", bottleneck=3, length=4, hidden=4),
    "mam-prefix": MamConfig(length=2, hidden=4, bottleneck=3, dropout=0.2),
    "lora-ia3": UnionConfig(parts=({**LORA, "dropout": 0.2}, "ia3")),
    "ia3-lora": UnionConfig(parts=("ia3", LORA)),
    "lora-ia3-gated": UnionConfig(parts=(LORA, "ia3", HOULSBY), gates=True),
    "prompt-prefix": UnionConfig(parts=({"name": "prompt-tuning", "length": 3}, PREFIX)),
}


def runs_of(family: str) -> dict[str, MethodConfig]:
    """All that a family can have: some have no biases, and T5's positions are relative."""
    relative = family in ("t5", "t5-gated", "mt5")
    refused = [name for name in RUNS if relative and getattr(RUNS[name], "position_shift", True) is False]
    refused = [name for name in refused if "prefix" not in name] + (["bitfit"] if family in BIASLESS else [])
    return {name: config for name, config in RUNS.items() if name not in refused}


def orders(names: Sequence[str]) -> dict[str, list[str | None]]:
    """Rows sorted by run, in no order, and with the bare base's rows in between."""
    mixed: list[str | None] = [*names, None, *names, None, None]
    random.Random(3).shuffle(mixed)
    return {
        "sorted": [name for name in names for _ in range(2)],
        "reversed": [name for name in reversed(names) for _ in range(2)],
        "cyclic": [*names, *names, None],
        "mixed": mixed,
    }


@torch.no_grad()
def started(base: nn.Module, configs: Mapping[str, MethodConfig], shared: Attached | None = None) -> Attached:
    """The runs attached, with every tensor random, or as it is in `shared`."""
    attached = attach(base, configs)
    if shared is None:
        randomise_runs(attached)
    else:
        for run in configs:
            attached.load(run, shared.parameters_of(run))
    return attached


@pytest.mark.parametrize(("family", "side"), sparing(LEFT_PADDED))
def test_every_row_of_a_mixed_batch_has_the_output_that_it_has_alone(family: str, side: str) -> None:
    base, configs = model(family), runs_of(family)
    shared = started(base, configs)
    shared.detach()
    wanted: dict[str | None, list[Tensor]] = {}
    text = {name: texts(4, seed=index) for index, name in enumerate([*configs, None])}
    with torch.no_grad():
        wanted[None] = [plainly(base, [row])[0] for row in text[None]]
        for run, config in configs.items():
            attached = started(base, {run: config}, shared)
            wanted[run] = [outputs(attached, [run], [row])[0] for row in text[run]]
            attached.detach()
        attached = started(base, configs, shared)
        for order in orders(list(configs)).values():
            places = [order[:index].count(name) for index, name in enumerate(order)]
            rows = [text[name][place] for name, place in zip(order, places, strict=True)]
            found = outputs(attached, order, rows, side)
            for name, place, row in zip(order, places, found, strict=True):
                assert torch.allclose(row, wanted[name][place], atol=1e-5), name


@pytest.mark.parametrize("family", TABLED)
def test_rows_of_the_bare_base_do_not_depend_on_their_neighbours_by_a_bit(family: str) -> None:
    base, configs = model(family), runs_of(family)
    attached = started(base, configs)
    order = orders(list(configs))["mixed"]
    rows = texts(len(order))
    batch = batch_of(base, rows)
    bare = [index for index, name in enumerate(order) if name is None]
    with torch.no_grad(), attached.route(order):
        among = output(attached(**batch))
        with attached.route([None] * len(order)):
            every = output(attached(**batch))
    plain = output(attached.detach()(**batch))
    for index in bare:
        real = slice(0, len(rows[index]))
        assert torch.equal(among[index, real], every[index, real])
        assert torch.allclose(among[index, real], plain[index, real], atol=1e-5)


def examples_of(run: str, step: int) -> list[int]:
    return random.Random(f"{run} {step}").sample(range(20), 2)


TEXTS = texts(20, seed=9)


def losses(attached: Attached, runs: Sequence[str], step: int) -> dict[str, Tensor]:
    """Each run's loss at a step; the rows of several runs stand in no order."""
    rows = [(run, example) for run in runs for example in examples_of(run, step)]
    random.Random(step).shuffle(rows)
    keys = torch.cat([row_keys(attached.seeds[run], step, torch.tensor([example])) for run, example in rows])
    names = [run for run, _ in rows]
    found = outputs(attached, names, [TEXTS[example] for _, example in rows], "right" if step % 2 else "left", keys)
    target = torch.linspace(-1, 1, found[0].shape[-1], dtype=found[0].dtype)
    parts = {run: [row for name, row in zip(names, found, strict=True) if name == run] for run in runs}
    return {run: sum((row - target).pow(2).mean() for row in own) / 2 for run, own in parts.items()}


class Training:
    """Some runs over one base, each with an optimizer, a schedule, a clipping and a seed of its own."""

    def __init__(
        self, base: nn.Module, configs: Mapping[str, MethodConfig], among: Sequence[str], named: str | None = None
    ):
        self.named = named
        self.attached = attach(base, configs, seeds={run: 10 + among.index(run) for run in configs}).train()
        self.optimizers = {run: self._optimizer(run, among.index(run)) for run in configs}
        self.schedules = {
            run: torch.optim.lr_scheduler.StepLR(optimizer, step_size=5 + among.index(run), gamma=0.8)
            for run, optimizer in self.optimizers.items()
        }
        self.clips = {run: 0.2 * (1 + among.index(run) % 4) for run in configs}

    def _optimizer(self, run: str, index: int) -> torch.optim.Optimizer:
        own, rate = self.attached.parameters_of(run).values(), 1e-3 * (1 + index % 3)
        if self.named is not None:
            config = TrainingConfig(optimizer=self.named, weight_decay=0.1)
            return optimizer(self.attached.parameters_of(run), config, rate, rate)
        if index % 4 == 3:
            return torch.optim.SGD(own, lr=30 * rate, momentum=0.9)
        return torch.optim.AdamW(own, lr=rate, weight_decay=0.1 * (index % 2))

    def step(self, step: int) -> None:
        self.backward(step)
        for run, own in self.optimizers.items():
            nn.utils.clip_grad_norm_(self.attached.parameters_of(run).values(), self.clips[run])
            own.step()
            own.zero_grad()
            self.schedules[run].step()

    def backward(self, step: int) -> None:
        torch.stack(list(losses(self.attached, self.attached.runs, step).values())).sum().backward()

    def tensors(self, run: str) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.attached.parameters_of(run).items()}


@pytest.mark.parametrize(
    ("family", "every"), sparing([("bert", (0, 1)), ("gpt2", (0, 2)), ("llama", (1, 2))], fast=("bert",))
)
def test_trainings_in_one_batch_end_where_separate_ones_end(family: str, every: tuple[int, int]) -> None:
    """All runs on one family, and each on one of two others."""
    steps = 100
    first, by = every
    configs = dict(list(runs_of(family).items())[first::by])
    together = Training(model(family, dtype=torch.float64), configs, list(configs))
    before = {run: together.tensors(run) for run in configs}
    for step in range(steps):
        together.step(step)
    base = model(family, dtype=torch.float64)
    for run, config in configs.items():
        separate = Training(base, {run: config}, list(configs))
        for step in range(steps):
            separate.step(step)
        found = together.tensors(run)
        for name, wanted in separate.tensors(run).items():
            assert torch.allclose(found[name], wanted, atol=1e-9, rtol=0), (run, name)
        assert any(not torch.allclose(found[name], value, atol=1e-3) for name, value in before[run].items())
        separate.attached.detach()


SIZES = ("lora-2", "lora-4", "pfeiffer-4", "pfeiffer-2", "prefix-2", "prefix-4", "prompt-2", "prompt-5", "unipelt-3")
MATRICES = ("lora-2", "lora-4", "prompt-2", "prompt-5")  # all that Muon takes


@pytest.mark.parametrize("named", optimizers())
def test_every_optimizer_trains_runs_of_different_sizes_in_one_batch_as_alone(named: str) -> None:
    configs = {run: RUNS[run] for run in (MATRICES if named == "muon" else SIZES)}
    together = Training(model("bert", dtype=torch.float64), configs, list(configs), named)
    before = {run: together.tensors(run) for run in configs}
    for step in range(2):
        together.step(step)
    base = model("bert", dtype=torch.float64)
    for run, config in configs.items():
        separate = Training(base, {run: config}, list(configs), named)
        for step in range(2):
            separate.step(step)
        found = together.tensors(run)
        for name, wanted in separate.tensors(run).items():
            assert torch.allclose(found[name], wanted, atol=1e-9, rtol=0), (run, name)
        assert any(not torch.equal(found[name], value) for name, value in before[run].items())
        separate.attached.detach()


# their fp32 gradients have noise of 1e-5 and a little more
NOISY = ("electra", "modernbert", "gemma", "qwen3", "phi3", "t5", "t5-gated", "mt5")


@pytest.mark.parametrize("family", sparing(family for family in TABLED if family != "bart"))
def test_gradients_in_one_batch_equal_separate_ones(family: str) -> None:
    exact = family in NOISY
    dtype, relative, floor = (torch.float64, 1e-9, 1e-10) if exact else (torch.float32, 1e-5, 1e-6)
    configs = runs_of(family)
    together = Training(model(family, dtype=dtype), configs, list(configs))
    randomise_runs(together.attached)
    start = {run: together.tensors(run) for run in configs}
    found: dict[str, list[dict[str, Tensor]]] = {run: [] for run in configs}
    for step in range(5):
        together.backward(step)
        for run in configs:
            found[run].append(descend(together, run))
    base = model(family, dtype=dtype)
    for run, config in configs.items():
        separate = Training(base, {run: config}, list(configs))
        separate.attached.load(run, start[run])
        for step in range(5):
            separate.backward(step)
            wanted = descend(separate, run)
            scale = torch.stack([value.norm() for value in wanted.values()]).norm()
            for name, value in wanted.items():
                error = (found[run][step][name] - value).norm()
                assert error <= relative * value.norm() + floor * scale, (run, name)
        separate.attached.detach()


@torch.no_grad()
def descend(training: Training, run: str) -> dict[str, Tensor]:
    """A plain step of gradient descent; gives the gradients."""
    gradients: dict[str, Tensor] = {}
    for name, value in training.attached.parameters_of(run).items():
        if value.grad is None:
            continue  # BERT's pooler, which the loss does not see
        gradients[name] = value.grad.clone()
        value -= 1e-3 * value.grad
        value.grad = None
    return gradients


@pytest.mark.parametrize("family", sparing(["bert", "t5"], fast=["bert"]))
def test_one_runs_nan_leaves_the_others_bits_as_they_are(family: str) -> None:
    configs = runs_of(family)
    for sick in (
        "lora-2",
        "dora-4",
        "pissa-2",
        "embedding-2",
        "ia3",
        "houlsby-3",
        "prefix-mlp-3",
        "ptuning-3",
        "instance-2",
        "unipelt-3",
        "ia3-lora",
    ):
        ends = []
        for value in (1.0, float("nan")):
            training = Training(model(family), configs, list(configs))
            randomise_runs(training.attached)
            for tensor in training.attached.parameters_of(sick).values():
                tensor.data.fill_(value)
            for step in range(2):
                training.step(step)
            ends.append({run: training.tensors(run) for run in configs if run != sick})
        for run, tensors in ends[0].items():
            assert all(torch.equal(value, ends[1][run][name]) for name, value in tensors.items()), (sick, run)
