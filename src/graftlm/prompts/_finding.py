"""Verbalizers that a new run finds in what its base foresees on training examples.

Such a verbalizer's file says what it NEEDS, and has `resolved`, which finds options, and `started`, which finds where
its tensors start.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from graftlm.core import registry
from graftlm.core.config import Config
from graftlm.core.settings import PromptConfig
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts._verbalizer import PACKAGE, named
from graftlm.sites import Tensors


def needs(config: PromptConfig) -> str:
    """What a prompt's verbalizer is found in: "texts", texts with their "labels", or nothing, ""."""
    return _module(config.verbalizer).NEEDS if config.verbalizer else ""


def find(given: Mapping[str, Any], labels: Sequence[str], lexicon: Lexicon, seen: Seen) -> dict[str, Any]:
    """The options that it is made with again, without examples."""
    name, config = named(given)
    found: Config = _module(given).resolved(config, labels, lexicon, seen)
    return {"name": name, **found.model_dump(mode="json")}


def start(given: Mapping[str, Any], own: Tensors, seen: Seen) -> Tensors:
    """A run's fresh tensors where they start."""
    return _module(given).started(named(given)[1], own, seen)


def _module(given: Mapping[str, Any]) -> ModuleType:
    return registry.load(PACKAGE, "verbalizer", named(given)[0])
