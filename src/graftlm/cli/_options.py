"""Flags, a YAML file and `-o name=value` pairs to plain nested values, in that order of precedence from the last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftlm.core.errors import UserError

Values = dict[str, Any]


def pairs(text: str | None, flag: str) -> dict[str, str]:
    """`text=body,label=stars` as a mapping."""
    found: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        name, equals, value = part.partition("=")
        if not (equals and name and value):
            raise UserError(f'{flag} "{text}": write it as name=value,name=value')
        found[name.strip()] = value.strip()
    return found


def fractions(text: str | None) -> dict[str, float]:
    """`train=0.8,test=0.2` as numbers."""
    found: dict[str, float] = {}
    for name, value in pairs(text, "--split").items():
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f'--split {name} = "{value}" is no number') from None
    return found


def marks(text: str | None) -> list[str] | None:
    """`head,tail` as two column names."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f'--mark "{text}": name two columns, as --mark head,tail')
    return names


def given(**values: Any) -> Values:
    """Only the flags that were used."""
    return {name: value for name, value in values.items() if value not in (None, {}, ())}


def data_values(path: str | None, columns: str | None, split: str | None, mark: str | None, **more: Any) -> Values:
    """A DataConfig's values from flags."""
    return given(path=path, columns=pairs(columns, "--columns"), split=fractions(split), mark=marks(mark), **more)


def read_config(path: Path | None) -> Values:
    """The values of a YAML file."""
    from graftlm.core.config import read_yaml

    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from None
    values = read_yaml(text, str(path))
    if not isinstance(values, Mapping):
        raise UserError(f"config {path} holds {type(values).__name__}, not options as name: value")
    values = dict(values)
    for name, key in (("method", "name"), ("data", "path")):
        if isinstance(values.get(name), str):
            values[name] = {key: values[name]}
    return values


def layered(config: Values, flags: Values, options: Sequence[str]) -> Values:
    """The file, the flags on it, the `-o` pairs on both. A method's options go with its name."""
    from graftlm.core.config import merged, overrides

    over = overrides(options)
    for values in (flags, over):
        if isinstance(values.get("method"), str):
            values["method"] = {"name": values["method"]}
    old, new = config.get("method", {}).get("name"), flags.get("method", {}).get("name")
    if new is not None and old not in (None, new):
        config = {**config, "method": {}}
    return merged(merged(config, flags), over)
