"""Qwen3 (Qwen Team, 2025): Llama's layers, with a norm on each head's query and key."""

from dataclasses import replace

from graftlm.sites.architectures.llama import ARCHITECTURE as LLAMA
from graftlm.sites.architectures.llama import STACK as LLAMA_STACK

STACK = replace(
    LLAMA_STACK,
    layer={**LLAMA_STACK.layer, "norm.query": "self_attn.q_norm", "norm.key": "self_attn.k_norm"},
)
ARCHITECTURE = replace(LLAMA, stacks={"": STACK})
