"""Verbalizers, a file each: what a model foresees at a prompt's mask -> a score for each label."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from graftlm.core import registry
from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts.verbalizers._verbalizer import Given, Seen, Verbalizer

PACKAGE = "graftlm.prompts.verbalizers"

__all__ = ["PACKAGE", "Chosen", "Given", "Seen", "Verbalizer", "parse"]


@dataclass(frozen=True)
class Chosen:
    """A verbalizer by its name, and its options."""

    name: str
    options: Config

    @property
    def module(self) -> ModuleType:
        """Where its functions are: `make`, and `resolved` where a new run finds options in examples."""
        return registry.load(PACKAGE, "verbalizer", self.name)

    @property
    def sees(self) -> bool:
        """Whether a new run is to see what the base foresees on training examples."""
        return self.module.SEES

    def resolved(self, given: Given) -> "Chosen":
        """With what a new run finds in `given.seen`, so that it is made again without examples."""
        find = getattr(self.module, "resolved", None)
        return self if find is None else replace(self, options=find(self.options, given))

    def make(self, given: Given) -> Verbalizer:
        return self.module.make(self.options, given)

    def dump(self) -> dict[str, Any]:
        """As `parse` takes it."""
        return {"name": self.name, **self.options.model_dump(mode="json")}


def parse(values: Mapping[str, Any]) -> Chosen:
    """{"name": "soft", "words": {…}} as a verbalizer and its options."""
    name = values.get("name")
    if not isinstance(name, str):
        raise UserError('a verbalizer needs a name, as {"name": "soft", "words": {"bad": "terrible"}}')
    kind: type[Config] = registry.load(PACKAGE, "verbalizer", name).Options
    return Chosen(name, kind.parse({key: own for key, own in values.items() if key != "name"}, where="verbalizer."))
