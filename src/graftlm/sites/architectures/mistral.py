"""Mistral (Jiang et al., 2023): Llama's layers, with attention that may slide."""

from graftlm.sites.architectures.llama import ARCHITECTURE as ARCHITECTURE
