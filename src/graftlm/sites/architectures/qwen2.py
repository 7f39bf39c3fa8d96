"""Qwen2 (Yang et al., 2024): Llama's layers, with biases on query, key and value."""

from graftlm.sites.architectures.llama import ARCHITECTURE as ARCHITECTURE
