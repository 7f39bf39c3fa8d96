"""A config's options as a user reads and writes them: the name, the type in words, the default in YAML."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic_core import PydanticUndefined, to_jsonable_python

from graftlm.core.config import Config

SIGNS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", types.NoneType: "null", Any: "anything"}


@dataclass(frozen=True)
class Option:
    """One field. `value` is its default as JSON has it; `default` the same in YAML, or "required"."""

    name: str
    type: str
    default: str
    value: Any


def options(config: type[Config]) -> list[Option]:
    """Every option of a config class, in the order of the class."""
    found: list[Option] = []
    for name, field in config.model_fields.items():
        value = field.get_default(call_default_factory=True)
        needed = value is PydanticUndefined
        value = None if needed else to_jsonable_python(value)
        kind = f"{_words(field.annotation)}{_bounds(field.metadata)}"
        found.append(Option(name, kind, "required" if needed else as_yaml(value), value))
    return found


def as_yaml(value: Any) -> str:
    """A value in YAML on one line, as `-o name=VALUE` takes it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _words(kind: Any) -> str:
    """A type in words: `integer > 0 or null`, `list of text`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(parts[0]) + _bounds(parts[1:])
    if origin is Literal:
        return " or ".join(f'"{part}"' if isinstance(part, str) else as_yaml(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {_words(parts[0])} to {_words(parts[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = [part for part in parts if part is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(map(_words, inner)))
    if isinstance(kind, type) and issubclass(kind, Config):
        return f"options ({', '.join(kind.model_fields)})"
    return WORDS.get(kind) or getattr(kind, "__name__", str(kind))


def _bounds(metadata: Sequence[Any]) -> str:
    """The limits of a number, as ` ≥ 0, < 1`."""
    limits = [f"{sign} {getattr(item, name)}" for name, sign in SIGNS for item in metadata if hasattr(item, name)]
    return f" {', '.join(limits)}" if limits else ""
