"""Verbalizers that a new run finds in what its base foresees on training examples.

A verbalizer's file that has `resolved` finds options so; one that has `started` finds where its tensors start.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.core import registry
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts._verbalizer import PACKAGE, named
from graftlm.sites import Tensors


def finds(given: Mapping[str, Any]) -> bool:
    """Whether a verbalizer, by its options, is found so."""
    module = registry.load(PACKAGE, "verbalizer", named(given)[0])
    return hasattr(module, "resolved") or hasattr(module, "started")


def find(given: Mapping[str, Any], labels: Sequence[str], lexicon: Lexicon, seen: Seen) -> dict[str, Any]:
    """The options that it is made with again, without examples."""
    name, config = named(given)
    resolved = getattr(registry.load(PACKAGE, "verbalizer", name), "resolved", None)
    if resolved is not None:
        config = resolved(config, labels, lexicon, seen)
    return {"name": name, **config.model_dump(mode="json")}


def start(given: Mapping[str, Any], own: Tensors, seen: Seen) -> Tensors:
    """A run's fresh tensors where they start."""
    name, config = named(given)
    started = getattr(registry.load(PACKAGE, "verbalizer", name), "started", None)
    return own if started is None else started(config, own, seen)
