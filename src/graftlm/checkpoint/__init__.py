"""Files in and out: base models and adapters."""

from graftlm.checkpoint._adapter import load_peft, load_tensors, save_adapter, save_peft
from graftlm.checkpoint._card import Card, adapter_folder, check_files, load_card
from graftlm.checkpoint._models import (
    ALIASES,
    Base,
    ModelSource,
    blank,
    load_base,
    load_config,
    load_tokenizer,
    resolve,
)
from graftlm.checkpoint._state import drop_later, drop_states, load_state, save_state

__all__ = [
    "ALIASES",
    "Base",
    "Card",
    "ModelSource",
    "adapter_folder",
    "blank",
    "check_files",
    "drop_later",
    "drop_states",
    "load_base",
    "load_card",
    "load_config",
    "load_peft",
    "load_state",
    "load_tensors",
    "load_tokenizer",
    "resolve",
    "save_adapter",
    "save_peft",
    "save_state",
]
