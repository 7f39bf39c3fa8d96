"""Tiny models of each family with every parameter random (zero biases hide mistakes), batches, and every method."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OPTConfig,
    OPTForCausalLM,
    OPTModel,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from graftlm.methods import MethodConfig
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.full import FullConfig
from graftlm.methods.head import HeadConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.top_k import TopKConfig
from graftlm.sites import Attached, Tokens

WIDTH, LAYERS, VOCABULARY, POSITIONS = 16, 2, 60, 64
TABLED = ("bert", "gpt2", "llama")
UNTABLED = ("distilbert", "opt")
CAUSAL = ("gpt2", "llama")

CONFIGS: dict[str, tuple[type, type, type, dict[str, Any]]] = {
    "bert": (
        BertConfig,
        BertModel,
        BertForMaskedLM,
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
        | {"max_position_embeddings": POSITIONS},
    ),
    "gpt2": (
        GPT2Config,
        GPT2Model,
        GPT2LMHeadModel,
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_inner": 24, "n_positions": POSITIONS}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "llama": (
        LlamaConfig,
        LlamaModel,
        LlamaForCausalLM,
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"intermediate_size": 24, "max_position_embeddings": POSITIONS, "pad_token_id": 0},
    ),
    "distilbert": (
        DistilBertConfig,
        DistilBertModel,
        DistilBertForMaskedLM,
        {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": POSITIONS},
    ),
    "opt": (
        OPTConfig,
        OPTModel,
        OPTForCausalLM,
        {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
        | {"ffn_dim": 24, "max_position_embeddings": POSITIONS},
    ),
}


def model(
    family: str, *, lm: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> nn.Module:
    """The backbone, or the model with its LM head, in eval mode."""
    config_class, backbone, with_head, options = CONFIGS[family]
    made = (with_head if lm else backbone)(config_class(vocab_size=VOCABULARY, **options | overrides))
    randomise(made, seed)
    for module in made.modules() if dtype == torch.float64 else ():
        if isinstance(module, LlamaRMSNorm):
            module.__class__ = ExactRMSNorm
    return made.to(dtype).eval()


class ExactRMSNorm(LlamaRMSNorm):
    """Transformers' own rounds to fp32 in a float64 model, which hides small differences and makes others."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * hidden_states * scale


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter random; norms' scales about one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        if "norm" in name.lower() or ".ln_" in f".{name}":
            parameter += name.endswith("weight")


@torch.no_grad()
def randomise_runs(attached: Attached, runs: Sequence[str] | None = None, std: float = 0.2) -> None:
    """Every tensor of the runs random, but for the base's own."""
    generator = torch.Generator().manual_seed(1)
    for run in runs or attached.runs:
        for name, tensor in attached.parameters_of(run).items():
            if not name.startswith("base."):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)


def texts(count: int, *, seed: int = 0, low: int = 3, high: int = 7) -> list[list[int]]:
    """Token ids of texts of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def padded(rows: Sequence[Sequence[int]], side: str = "right", to: int = 0) -> dict[str, Tensor]:
    """input_ids and attention_mask (rows, longest), padded on one side."""
    longest = max(to, *map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def virtual(attached: Attached, run: str | None) -> list[int]:
    """The ids of a run's virtual tokens, which stand in front of its texts."""
    acts = attached.acts[run] if run is not None else ()
    lengths = [act.length for act in acts if isinstance(act, Tokens)]
    return [attached.sites.vocabulary + slot for slot in range(sum(lengths))]


def output(out: Any) -> Tensor:
    """Hidden states, or logits where there is a head."""
    return out.logits if "logits" in out else out.last_hidden_state


def outputs(
    attached: Attached,
    names: Sequence[str | None],
    rows: Sequence[Sequence[int]],
    side: str = "right",
    keys: Tensor | None = None,
    to: int = 0,
) -> list[Tensor]:
    """Each row's outputs at its own text's tokens, (tokens d), with the rows in one batch."""
    full = [virtual(attached, name) + list(row) for name, row in zip(names, rows, strict=True)]
    batch = padded(full, side, to)
    attached.route(list(names), keys)
    found = output(attached(**batch))
    real = batch["attention_mask"].bool() & (batch["input_ids"] < attached.sites.vocabulary)
    return [found[index][real[index]] for index in range(len(rows))]


METHODS: Mapping[str, MethodConfig] = {
    "lora": LoraConfig(rank=2, alpha=4),
    "lora-all-linear": LoraConfig(rank=3, alpha=6, sites="all-linear"),
    "bitfit": BitfitConfig(),
    "houlsby": AdapterConfig(variant="houlsby", bottleneck=3),
    "pfeiffer": AdapterConfig(variant="pfeiffer", bottleneck=4),
    "parallel": AdapterConfig(variant="parallel", bottleneck=3),
    "prefix-mlp": PrefixConfig(length=3, hidden=5),
    "prefix": PrefixConfig(length=3, reparametrisation="none"),
    "prompt": PromptTuningConfig(length=3),
    "prompt-mlp": PromptTuningConfig(length=3, reparametrisation="mlp", hidden=5),
    "prompt-residual": PromptTuningConfig(length=3, reparametrisation="residual", hidden=5),
    "full": FullConfig(),
    "top-k": TopKConfig(k=1),
    "head": HeadConfig(),
}
IN_PLACE = ("full", "top-k")
SHARING = tuple(name for name in METHODS if name not in (*IN_PLACE, "head"))


def fits(family: str, method: str) -> bool:
    """Llama has no biases, so bitfit refuses it; families without a table have no spans and no known attention."""
    if method == "bitfit":
        return family != "llama"
    return family in TABLED or not method.startswith(("prefix", "houlsby", "pfeiffer", "parallel"))


CASES = [(family, method) for family in (*TABLED, *UNTABLED) for method in METHODS if fits(family, method)]
