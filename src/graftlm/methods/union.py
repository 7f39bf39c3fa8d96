"""A union of methods on one run: each part acts as it does alone, and where two act on one layer, in the order given.

With `gates`, each place of each part has a gate of its own (Mao et al., 2021, arXiv:2110.07577):
y' = y + g · (part(y) − y), g = mean over the example's tokens of σ(w · h + b), and a prefix's keys and values are
scaled by g. One learning rate serves all parts. Parts that would change the same tensors are refused by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from graftlm.core.errors import UserError
from graftlm.methods import _method
from graftlm.methods._gates import Pooling, gated
from graftlm.methods._method import MethodConfig, needs, parse
from graftlm.methods._peft import PeftWords
from graftlm.methods._peft_union import united
from graftlm.sites import Act, Branch, Select, Sites

PAPER = "gates: Mao et al. 2021"
KIND = "union"
MERGEABLE = True
LEARNING_RATE = 5e-4
TRAINS = "what its parts train, and with gates d + 1 numbers a place"
STORES = "what its parts store, and the gates"
PEFT = PeftWords(lambda config, sites: united(config.configs, config.gates, sites))
EXAMPLE = {"parts": ["lora", "prefix"]}


class UnionConfig(MethodConfig):
    """`parts`: methods by name, or as {name: lora, rank: 4}. In a config file `method: {union: [lora, prefix]}` is
    short for it, on the command line `--method lora+prefix`.

    `gates`: a gate at each place of each part; not for virtual tokens and the base's own weights. `pooling`: a gate's
    mean is over the real tokens ("masked") or over padding too ("padded", as the reference code computes it).
    A union is mergeable where all its parts are and it has no gates. The default rate is the lowest of its parts'.
    """

    parts: tuple[str | Mapping[str, Any], ...] = Field(min_length=2)
    gates: bool = False
    pooling: Pooling = "masked"

    @field_validator("parts")
    @classmethod
    def _whole(cls, parts: Sequence[str | Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        return tuple(_plain(_parsed(part, f"method.parts.{place}")) for place, part in enumerate(parts))

    @property
    def configs(self) -> list[MethodConfig]:
        """The parts' configs."""
        return [_parsed(part, "method.parts") for part in self.parts]


def _parsed(part: str | Mapping[str, Any], where: str) -> MethodConfig:
    options = {"name": part} if isinstance(part, str) else dict(part)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{where} needs a name, as {{name: lora, rank: 4}}")
    if name == _method.UNION or "+" in name:
        raise UserError(f"{where} is a union itself; name all parts in one")
    return parse(name, options, where=f"{where}.")


def _plain(config: MethodConfig) -> dict[str, Any]:
    return {"name": config.method, **config.model_dump(mode="json")}


def acts(config: UnionConfig, sites: Sites) -> Sequence[Act]:
    needs(config, "pooling", "gates", True)
    return joined(config.configs, sites, gates=config.gates, pooling=config.pooling)


def kept(config: UnionConfig) -> UnionConfig:
    return config.model_copy(update={"parts": tuple(_plain(_method.kept(part)) for part in config.configs)})


def with_labels(config: UnionConfig, labels: Sequence[str]) -> UnionConfig:
    parts = tuple(_plain(_method.with_labels(part, labels)) for part in config.configs)
    return config.model_copy(update={"parts": parts})


def learning_rate(config: UnionConfig) -> float:
    return min(_method.learning_rate(part) for part in config.configs)


def joined(parts: Sequence[MethodConfig], sites: Sites, *, gates: bool, pooling: Pooling) -> list[Act]:
    """The acts of all parts, gated where asked; refuses parts that would change the same tensors."""
    found: list[Act] = []
    owners: dict[str, str] = {}
    for part in parts:
        for act in _method.acts(part, sites):
            for place in _places(act):
                if place in owners:
                    both = (
                        f"{owners[place]} and {part.method}" if owners[place] != part.method else f"two {part.method}"
                    )
                    raise UserError(f"{both} cannot be united: both have {place}")
                owners[place] = part.method
            found.append(gated(act, part.method, pooling, sites) if gates else act)
    return found


def _places(act: Act) -> Iterator[str]:
    """What one part alone may have, in words."""
    if isinstance(act, Select):
        yield f"the weight {act.parameter}"
    elif isinstance(act, Branch):
        yield from (f'a tensor "{name}" at {act.site.name}' for name in act.params)
    else:
        yield f"a {act.place}"
