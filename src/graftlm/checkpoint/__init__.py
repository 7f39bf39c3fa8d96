"""Files in and out: base models and adapters."""

from graftlm.checkpoint._adapter import Card, PeftForm, adapter_folder, load_card, load_tensors, save_adapter
from graftlm.checkpoint._models import ALIASES, Base, ModelSource, load_base, load_config, resolve

__all__ = [
    "ALIASES",
    "Base",
    "Card",
    "ModelSource",
    "PeftForm",
    "adapter_folder",
    "load_base",
    "load_card",
    "load_config",
    "load_tensors",
    "resolve",
    "save_adapter",
]
