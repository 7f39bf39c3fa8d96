"""Gemma (Gemma Team, 2024): Llama's layers, norms whose scale is 1 + weight, and embeddings times √d."""

from graftlm.sites.architectures.llama import ARCHITECTURE as ARCHITECTURE
