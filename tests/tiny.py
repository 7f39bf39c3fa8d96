"""Tiny models of each family with every parameter random (zero biases hide mistakes), batches, and every method."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from graftlm.methods import MethodConfig
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.full import FullConfig
from graftlm.methods.head import HeadConfig
from graftlm.methods.ia3 import Ia3Config
from graftlm.methods.instance_prompt import InstancePromptConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.mam import MamConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.ptuning import PtuningConfig
from graftlm.methods.ptuning_v2 import PtuningV2Config
from graftlm.methods.top_k import TopKConfig
from graftlm.methods.union import UnionConfig
from graftlm.methods.unipelt import UnipeltConfig
from graftlm.sites import Attached, Tokens
from graftlm.sites._site import is_norm

WIDTH, LAYERS, VOCABULARY, POSITIONS = 16, 2, 60, 64

HIDDEN: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
HIDDEN |= {"intermediate_size": 24, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
GROUPED = HIDDEN | {"num_attention_heads": 4, "num_key_value_heads": 2}
T5 = {"d_model": WIDTH, "d_kv": 6, "d_ff": 24, "num_layers": LAYERS, "num_heads": 2, "pad_token_id": 0}
T5 |= {"decoder_start_token_id": 0}

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "MaskedLM", HIDDEN),
    "roberta": ("Roberta", "MaskedLM", HIDDEN | {"pad_token_id": 1, "max_position_embeddings": POSITIONS + 2}),
    "distilbert": (
        "DistilBert",
        "MaskedLM",
        {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": POSITIONS},
    ),
    "electra": ("Electra", "MaskedLM", HIDDEN | {"embedding_size": 12}),
    "albert": ("Albert", "MaskedLM", HIDDEN | {"embedding_size": 12}),
    "modernbert": (
        "ModernBert",
        "MaskedLM",
        HIDDEN | {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "gpt2": (
        "GPT2",
        "LMHeadModel",
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_inner": 24, "n_positions": POSITIONS, "pad_token_id": 0},
    ),
    "gpt-neox": ("GPTNeoX", "ForCausalLM", HIDDEN | {"rotary_pct": 0.5}),
    "opt": (
        "OPT",
        "ForCausalLM",
        HIDDEN | {"word_embed_proj_dim": WIDTH, "ffn_dim": 24, "pad_token_id": 1},
    ),
    "llama": ("Llama", "ForCausalLM", GROUPED),
    "mistral": ("Mistral", "ForCausalLM", GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2", "ForCausalLM", GROUPED),
    "qwen3": ("Qwen3", "ForCausalLM", GROUPED | {"head_dim": 6}),
    "gemma": ("Gemma", "ForCausalLM", GROUPED | {"head_dim": 6, "num_key_value_heads": 1}),
    "phi3": ("Phi3", "ForCausalLM", GROUPED),
    "t5": ("T5", "ForConditionalGeneration", T5),
    "t5-gated": ("T5", "ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5", "ForConditionalGeneration", T5),
    "bart": (
        "Bart",
        "ForConditionalGeneration",
        {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "scale_embedding": True}
        | {"max_position_embeddings": POSITIONS, "decoder_start_token_id": 2, "pad_token_id": 1}
        | {"forced_eos_token_id": None},
    ),
    "mpnet": ("MPNet", "MaskedLM", HIDDEN | {"pad_token_id": 1}),
    "gptj": (
        "GPTJ",
        "ForCausalLM",
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_inner": 24, "n_positions": POSITIONS, "rotary_dim": 4},
    ),
}
UNTABLED = ("mpnet", "gptj")
TABLED = tuple(family for family in CONFIGS if family not in UNTABLED)
BASIC = ("bert", "gpt2", "llama")
QUICK = ("bert", "albert", "modernbert", "gpt2", "phi3", "llama", "t5")  # a family of each kind
CAUSAL = ("gpt2", "gpt-neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
LEFT_PADDED = [(family, side) for family in TABLED for side in ("right", "left") if (family, side) != ("bart", "left")]
ENCODER_DECODER = ("t5", "t5-gated", "mt5", "bart")


def sparing(cases: Iterable[Any], fast: Collection[str] = QUICK) -> list[Any]:
    """A test's cases, a family or a tuple that begins with one; those not of `fast` are left to `make test-slow`."""
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=() if row[0] in fast else pytest.mark.slow) for row in rows]


def config_of(family: str, **overrides: Any) -> Any:
    name, _, options = CONFIGS[family]
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return getattr(transformers, f"{name}Config")(**ids | {"vocab_size": VOCABULARY} | options | overrides)


def model(
    family: str, *, lm: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> nn.Module:
    """The backbone, or the model with its LM head, in eval mode."""
    name, with_head, _ = CONFIGS[family]
    suffix = with_head if with_head.startswith(("For", "LM")) else f"For{with_head}"
    made = getattr(transformers, f"{name}{suffix}" if lm else f"{name}Model")(config_of(family, **overrides))
    randomise(made, seed)
    for module in made.modules() if dtype == torch.float64 else ():
        if is_norm(module) and not isinstance(module, nn.LayerNorm):
            module.__class__ = exact(type(module))
    return made.to(dtype).eval()


@cache
def exact(kind: type[nn.Module]) -> type[nn.Module]:
    """An RMSNorm in float64: Transformers' own round to fp32, which hides small differences and makes others."""
    added = 1 if kind.__name__.startswith("Gemma") else 0

    def forward(self: nn.Module, hidden_states: Tensor) -> Tensor:
        epsilon = getattr(self, "variance_epsilon", None) or self.eps
        return (
            (added + self.weight) * hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + epsilon)
        )

    return type(f"Exact{kind.__name__}", (kind,), {"forward": forward})


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter random; norms' scales about one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        if "norm" in name.lower() or ".ln_" in f".{name}":
            parameter += name.endswith("weight") and not isinstance(module, (transformers.GemmaPreTrainedModel))


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


def batch_of(base: nn.Module, rows: Sequence[Sequence[int]], side: str = "right", to: int = 0) -> dict[str, Tensor]:
    """A batch as this model takes it: a decoder beside an encoder reads the same texts, without virtual tokens."""
    batch = padded(rows, side, to)
    if base.config.is_encoder_decoder:
        own = padded([[token for token in row if token < VOCABULARY] for row in rows], side, to)
        batch |= {f"decoder_{name}": value for name, value in own.items()}
    return batch


def real_of(batch: Mapping[str, Tensor]) -> Tensor:
    """True at the places of an output that are a text's own tokens."""
    prefix = "decoder_" if "decoder_input_ids" in batch else ""
    return batch[f"{prefix}attention_mask"].bool() & (batch[f"{prefix}input_ids"] < VOCABULARY)


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
    batch = batch_of(attached.base, full, side, to)
    attached.route(list(names), keys)
    found = output(attached(**batch))
    real = real_of(batch)
    return [found[index][real[index]] for index in range(len(rows))]


def plainly(base: nn.Module, rows: Sequence[Sequence[int]], side: str = "right", to: int = 0) -> list[Tensor]:
    """Each row's outputs of a bare model."""
    batch = batch_of(base, rows, side, to)
    with torch.no_grad():
        found = output(base(**batch))
    return [found[index][real] for index, real in enumerate(real_of(batch))]


LORA = {"name": "lora", "rank": 2, "alpha": 4}
NORMED = {"name": "adapter", "bottleneck": 3, "layer_norms": True}
HOULSBY = {"name": "adapter", "variant": "houlsby", "bottleneck": 3}
PREFIX = {"name": "prefix", "length": 2, "hidden": 5}

METHODS: Mapping[str, MethodConfig] = {
    "lora": LoraConfig(rank=2, alpha=4),
    "lora-all-linear": LoraConfig(rank=3, alpha=6, sites="all-linear"),
    "lora-rslora": LoraConfig(rank=3, alpha=4, rslora=True, init="gaussian"),
    "lora-dora": LoraConfig(rank=2, alpha=4, dora=True, sites="all-linear"),
    "lora-pissa": LoraConfig(rank=2, alpha=4, init="pissa"),
    "lora-embedding": LoraConfig(rank=2, alpha=1, sites=("embedding",)),
    "ia3": Ia3Config(),
    "bitfit": BitfitConfig(),
    "houlsby": AdapterConfig(variant="houlsby", bottleneck=3),
    "pfeiffer": AdapterConfig(variant="pfeiffer", bottleneck=4),
    "parallel": AdapterConfig(variant="parallel", bottleneck=3),
    "prefix-mlp": PrefixConfig(length=3, hidden=5),
    "prefix": PrefixConfig(length=3, reparametrisation="none"),
    "prompt": PromptTuningConfig(length=3),
    "prompt-mlp": PromptTuningConfig(length=3, reparametrisation="mlp", hidden=5),
    "prompt-residual": PromptTuningConfig(length=3, reparametrisation="residual", hidden=5),
    "ptuning-v2": PtuningV2Config(length=3, dropout=0.0),
    "ptuning-v2-mlp": PtuningV2Config(length=3, dropout=0.0, reparametrisation="mlp", hidden=5),
    "ptuning": PtuningConfig(length=3),
    "ptuning-mlp": PtuningConfig(length=2, encoder="mlp", hidden=5),
    "instance-prompt": InstancePromptConfig(length=3, bottleneck=5),
    "unipelt": UnipeltConfig(bottleneck=4, length=3, hidden=5, rank=2),
    "mam": MamConfig(length=3, hidden=5, bottleneck=3),
    "union-scaled": UnionConfig(parts=(LORA, "ia3")),
    "union-prompted": UnionConfig(parts=(LORA, {"name": "prompt-tuning", "length": 3}, PREFIX)),
    "union-gated": UnionConfig(parts=(LORA, "ia3", NORMED, PREFIX), gates=True),
    "full": FullConfig(),
    "top-k": TopKConfig(k=1),
    "head": HeadConfig(),
}
IN_PLACE = ("full", "top-k")
SHARING = tuple(name for name in METHODS if name not in (*IN_PLACE, "head"))


def fits(family: str, method: str) -> bool:
    """Some models have no biases, so bitfit refuses them; without a table there are no spans or known attention."""
    if method == "bitfit":
        return family not in BIASLESS
    return family in TABLED or not method.startswith(TABLE_NEEDED)


TABLE_NEEDED = ("prefix", "ptuning-v2", "houlsby", "pfeiffer", "parallel", "ia3", "lora-embedding")
TABLE_NEEDED += ("unipelt", "mam", "union")
BIASLESS = ("llama", "mistral", "qwen3", "gemma", "phi3", "modernbert", "t5", "t5-gated", "mt5")
CASES = [(family, method) for family in CONFIGS for method in METHODS if fits(family, method)]
