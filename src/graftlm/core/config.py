"""Frozen configs: unknown keys fail and name the nearest, bad values fail by name, nothing is repaired."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from typing_extensions import Self

from graftlm.core.errors import UserError, unknown

TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
KINDS = {"tuple": "a list, as [A, B]", "list": "a list, as [A, B]", "is": "a list, as [A, B]", "string": "a text"}
KINDS |= {"dict": "options as name: value", "model": "options as name: value", "bool": "true or false"}
KINDS |= {"int": "a whole number", "float": "a number"}
"""What pydantic's types of errors, as int_parsing and int_type, want."""
PARTS = ("str", "int", "float", "bool")  # of a union, which pydantic names in an error's place, as dict[str,any] too
SHORT = Repr()  # says little of a value whose text would be long, or without end
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 80


class Config(BaseModel):
    """A frozen, plain config whose mistakes become one-line errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, values: Any) -> Any:
        """A text by itself stands for a list of one, where only a list is taken."""
        if not isinstance(values, Mapping):
            return values
        alone = [name for name in cls.model_fields if isinstance(values.get(name), str) and cls._lists(name)]
        return {**values, **{name: [values[name]] for name in alone}}

    @classmethod
    def _lists(cls, name: str) -> bool:
        kind = cls.model_fields[name].annotation
        return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)

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
        path = _path(first)
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
        message = " or ".join(dict.fromkeys(_wanted(error) for error in errors if _path(error) == path))
        message = message.replace(" or input should be ", " or ")
        given = SHORT.repr(first["input"])[:80]
        return UserError(f"option {key.rstrip('.')} = {given}: {message}" if key.rstrip(".") else message)


def _path(error: Any) -> list[str]:
    """Where an error is, without the parts of a union."""
    return [str(part) for part in error["loc"] if part not in PARTS and "[" not in str(part)]


def _wanted(error: Any) -> str:
    """What would have been right."""
    kind, _, how = str(error["type"]).partition("_")
    if kind in KINDS and how in ("type", "parsing", "from_float", "instance_of"):
        return f"input should be {KINDS[kind]}"
    if error["type"] in ("too_short", "too_long"):
        most, least = error["ctx"].get("max_length"), error["ctx"].get("min_length")
        return f"{error['ctx']['actual_length']} are given; " + (f"at least {least}" if least else f"at most {most}")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


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
    """Plain YAML: no objects are built from it, a key is a text, and none stands twice in one place."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, where, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2020-13-45 looks like a date
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML ({getattr(error, 'problem', None) or 'it cannot be read'})") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_keys(node: yaml.Node, where: str, seen: set[int]) -> None:
    """`seen` holds the nodes that were checked: an alias may lead back to one."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    keys: set[str] = set()
    for part in node.value:
        if isinstance(node, yaml.MappingNode):
            key, part = part
            at = f"{where} line {key.start_mark.line + 1}"
            if key.tag not in (TEXT, MERGE):
                said = str(key.value)[:40]
                raise UserError(f'{at}: the key {said} is no text; write it in quotes, as "{said}"')
            if key.value in keys:
                raise UserError(f'{at}: "{key.value}" stands twice')
            keys.add(key.value)
        _check_keys(part, where, seen)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, nested mappings key by key."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        out[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out
