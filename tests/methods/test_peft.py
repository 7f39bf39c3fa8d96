"""PEFT as the judge: what it trained, copied tensor by tensor into a run of ours, gives its logits."""

from collections.abc import Callable, Mapping
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from graftlm.methods import MethodConfig, attach
from graftlm.methods.ia3 import Ia3Config
from graftlm.methods.lora import LoraConfig
from graftlm.sites import Attached, Site, Sites
from tiny import BASIC, model, output, padded, texts

BATCH = padded(texts(4))
REAL = BATCH["attention_mask"].bool()  # our positions at padding are others
LAYERS = {
    "bert": ("query", "value", "intermediate.dense"),
    "llama": ("q_proj", "v_proj", "up_proj"),
    "gpt2": ("c_attn", "mlp.c_fc"),
}
EMBEDDING = {"bert": ("word_embeddings",), "llama": ("embed_tokens",), "gpt2": ("wte",)}
SCALED = {
    "bert": ("key", "value", "intermediate.dense", "feedforward.output"),
    "llama": ("k_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "mlp.c_proj"),
}
OURS = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_embedding_A": "down",
    "lora_embedding_B": "up",
    "ia3_l": "scale",
}


def lora(family: str, ours: LoraConfig, sites: list[Site]) -> peft.PeftConfig:
    return peft.LoraConfig(
        r=ours.rank,
        lora_alpha=ours.alpha,  # type: ignore[arg-type]
        target_modules=[site.module for site in sites],
        use_rslora=ours.rslora,
        use_dora=ours.dora,
        fan_in_fan_out=family == "gpt2" and sites[0].kind == "linear",
    )


def ia3(family: str, ours: Ia3Config, sites: list[Site]) -> peft.PeftConfig:
    return peft.IA3Config(
        target_modules=[site.module for site in sites],
        feedforward_modules=[site.module for site in sites if site.role == "feedforward.output"],
        fan_in_fan_out=family == "gpt2",
    )


Case = tuple[Callable[..., peft.PeftConfig], Mapping[str, tuple[str, ...]], MethodConfig]
CASES: Mapping[str, Case] = {
    "lora": (lora, LAYERS, LoraConfig(rank=3, alpha=6)),
    "rslora": (lora, LAYERS, LoraConfig(rank=3, alpha=6, rslora=True)),
    "dora": (lora, LAYERS, LoraConfig(rank=3, alpha=6, dora=True)),
    "embedding": (lora, EMBEDDING, LoraConfig(rank=3, alpha=6)),
    "ia3": (ia3, SCALED, Ia3Config()),
}


def trained(base: nn.Module, config: peft.PeftConfig) -> nn.Module:
    """A few steps by PEFT alone, away from where it starts."""
    made = peft.get_peft_model(base, config).train()  # type: ignore[arg-type]
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam([value for value in made.parameters() if value.requires_grad], lr=0.05)
    for _ in range(4):
        output(made(**BATCH))[REAL].pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


def copied(theirs: nn.Module, attached: Attached) -> dict[str, Tensor]:
    """PEFT's tensors under our names: `base_model.model.<module>.<kind>.default[.weight]`."""
    names = {act.site.module: act.site.name for act in attached.acts["a"]}
    found: dict[str, Tensor] = {}
    for name, value in theirs.named_parameters():
        path = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default")
        module, _, kind = path.rpartition(".")
        if kind in OURS:
            key = f"{names[module]}.{OURS[kind]}"
            found[key] = value.detach().reshape(attached.parameters_of("a")[key].shape)
    return found


def pair(family: str, case: str) -> tuple[Any, Attached, dict[str, Tensor]]:
    """PEFT's trained model, a fresh run of ours, and PEFT's tensors under our names."""
    theirs_of, words, config = CASES[case]
    chosen = config.model_copy(update={"sites": words[family]})
    base = model(family)
    theirs = trained(model(family), theirs_of(family, chosen, Sites(base).select(words[family])))
    attached = attach(base, {"a": chosen})
    return theirs, attached, copied(theirs, attached)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", BASIC)
def test_tensors_that_peft_trained_give_its_output_in_a_run_of_ours(family: str, case: str) -> None:
    theirs, attached, tensors = pair(family, case)
    with torch.no_grad():
        fresh = output(attached(**BATCH))[REAL]
        attached.load("a", tensors)
        ours, wanted = output(attached(**BATCH))[REAL], output(theirs(**BATCH))[REAL]
    assert torch.allclose(ours, wanted, atol=1e-5)
    assert not torch.allclose(fresh, wanted, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", BASIC)
def test_the_gradients_are_pefts(family: str, case: str) -> None:
    theirs, attached, tensors = pair(family, case)
    attached.load("a", tensors)
    attached.train()
    target = torch.linspace(-1, 1, 16)
    for made in (theirs, attached):
        (output(made(**BATCH))[REAL] - target).pow(2).mean().backward()
    for value in theirs.parameters():
        value.data = value.data if value.grad is None else value.grad
    for name, wanted in copied(theirs, attached).items():
        found = attached.parameters_of("a")[name].grad
        assert found is not None
        assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-4), name
