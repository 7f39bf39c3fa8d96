"""Frozen configs: unknown keys fail and name the nearest, bad values fail by name, nothing is repaired."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from graftlm.core.errors import UserError, unknown


class Config(BaseModel):
    """A frozen, plain config whose mistakes become one-line errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """A config from plain values; `where` (as "method.") stands before the key in an error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise cls._explained(error.errors(), where) from None

    @classmethod
    def _explained(cls, errors: Sequence[Any], where: str) -> UserError:
        """The first error, unknown keys before bad values, with the nearest known key beside an unknown one."""
        first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"]]
        key = where + ".".join(path)
        if first["type"] == "extra_forbidden":
            parents, owner = path[:-1], cls
            for name in parents:
                inner = owner.model_fields[name].annotation if name in owner.model_fields else None
                if not (isinstance(inner, type) and issubclass(inner, Config)):
                    return UserError(f'no option "{key}"')
                owner = inner
            before = where + "".join(f"{name}." for name in parents)
            return unknown("option", key, [before + name for name in owner.model_fields])
        if first["type"] == "missing":
            return UserError(f"option {key} is missing")
        message = str(first["msg"]).removeprefix("Value error, ")
        shown = repr(first["input"])
        return UserError(f"option {key.rstrip('.') or 'values'} = {shown[:80]}: {message[:1].lower()}{message[1:]}")


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`["method.rank=4"]` as nested values; the right-hand sides are YAML scalars or lists."""
    tree: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise UserError(f'option "{pair}" has no value; write it as {path or "name"}=VALUE')
        *parents, leaf = path.strip().split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f'option "{pair}" sets a part of {parent}, which an earlier option set whole')
        node[leaf] = read_yaml(text, f'option "{pair}"')
    return tree


def read_yaml(text: str, where: str) -> Any:
    """Plain YAML; no objects are built from it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML ({getattr(error, 'problem', None) or 'it cannot be read'})") from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, nested mappings key by key."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        out[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out
