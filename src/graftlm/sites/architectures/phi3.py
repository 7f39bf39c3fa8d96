"""Phi-3 (Abdin et al., 2024): Llama's layers, with query, key and value fused, and gate and input fused."""

from dataclasses import replace
from typing import Any

from graftlm.sites._table import Architecture, Fused, Span
from graftlm.sites.architectures.llama import ARCHITECTURE as LLAMA
from graftlm.sites.architectures.llama import STACK as LLAMA_STACK


def architecture(config: Any) -> Architecture:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * width
    widths = (config.num_attention_heads * width, keys, keys)
    fused = {
        "attention.query": Fused("self_attn.qkv_proj", 0, widths),
        "attention.key": Fused("self_attn.qkv_proj", 1, widths),
        "attention.value": Fused("self_attn.qkv_proj", 2, widths),
        "feedforward.gate": Fused("mlp.gate_up_proj", 0, 2),
        "feedforward.input": Fused("mlp.gate_up_proj", 1, 2),
    }
    spans = {
        "span.attention": Span("self_attn.qkv_proj", "self_attn.o_proj", "input_layernorm"),
        "span.feedforward": Span("mlp.gate_up_proj", "mlp.down_proj", "post_attention_layernorm"),
    }
    return replace(LLAMA, stacks={"": replace(LLAMA_STACK, layer={**LLAMA_STACK.layer, **fused}, spans=spans)})
