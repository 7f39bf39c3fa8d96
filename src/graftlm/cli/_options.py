"""Flags, a YAML file and `-o name=value` pairs to plain nested values, in that order of precedence from the last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftlm.core.errors import UserError, unknown

Values = dict[str, Any]
SHORT_FORMS = (("method", "name"), ("task", "name"), ("data", "path"))


def pairs(text: str | None, flag: str) -> dict[str, str]:
    """`text=body,label=stars` as a mapping."""
    found: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        name, equals, value = (side.strip() for side in part.partition("="))
        if not (equals and name and value):
            raise UserError(f'{flag} "{text}": write it as name=value,name=value')
        if name in found:
            raise UserError(f'{flag} "{text}" names {name} twice')
        found[name] = value
    return found


def fractions(text: str | None, flag: str = "--split") -> dict[str, float]:
    """`train=0.8,test=0.2` as numbers."""
    found: dict[str, float] = {}
    for name, value in pairs(text, flag).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f'{flag} {name} = "{value}" is no number') from None
    return found


def prompt_values(template: str | None, verbalizer: str | None, multi_mask: str | None = None, **more: Any) -> Values:
    """A prompt's values from flags; the verbalizer is a mapping in JSON or YAML, or a file that holds one.

    `multi_mask`: the rule by which its words, of several tokens each, are asked for.
    """
    from graftlm.core.config import read_yaml

    words = None if verbalizer is None else read_yaml(_text_of(verbalizer), "--verbalizer")
    if verbalizer is not None and not (isinstance(words, Mapping) and words):
        raise UserError(f'--verbalizer {verbalizer!r}: write it as \'{{"positive": "great", "negative": "bad"}}\'')
    if multi_mask is not None:
        words = _with_masks(words, multi_mask)
    return given(template=template, verbalizer=words, **more)


def check_prompt(prompt: Any) -> None:
    """Refuses a prompt's options without a template, which they are of."""
    if isinstance(prompt, Mapping) and prompt and prompt.get("template") is None:
        raise UserError(
            f"{', '.join(prompt)} {'is' if len(prompt) == 1 else 'are'} of a prompt, which needs a template too, as "
            "--template '{text} It was {mask}.'"
        )


def _text_of(verbalizer: str) -> str:
    """What a verbalizer's flag says, or the file that it names."""
    if verbalizer.lstrip().startswith("{") or not Path(verbalizer).is_file():
        return verbalizer
    try:
        return Path(verbalizer).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--verbalizer {verbalizer} cannot be read: {error}") from None


def _with_masks(words: Mapping[str, Any] | None, rule: str) -> Values:
    """A verbalizer of plain words with a mask for each of their tokens."""
    if words is None:
        raise UserError("--multi-mask says how the words of --verbalizer are asked for; name those too")
    if isinstance(words.get("name"), str) and "words" in words:
        if words["name"] not in ("manual", "multi-mask"):
            raise UserError(f'--multi-mask goes with plain words, and the verbalizer is "{words["name"]}"')
        words = dict(words["words"])
    return {"name": "multi-mask", "words": words, "rule": rule}


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
    return {name: value for name, value in values.items() if value is not None and value != {}}


def data_values(
    path: str | None, columns: str | None, split: Mapping[str, float], mark: str | None, **more: Any
) -> Values:
    """A DataConfig's values from flags."""
    if path == "":
        raise UserError("--data is empty; name a folder of splits, a file or a datasets name")
    return given(path=path, columns=pairs(columns, "--columns"), split=dict(split), mark=marks(mark), **more)


def task_values(options: Sequence[str] | None) -> Values:
    """The options of a run's task, from `-o task.NAME=VALUE` pairs."""
    from graftlm.core.config import overrides

    found = overrides(options or ())
    for name in found:
        if name != "task" or not isinstance(found[name], Mapping):
            raise UserError(f'-o {name}=…: a finished run takes options of its task only, as -o "task.beams=4"')
    return dict(found.get("task", {}))


def read_config(path: Path | None) -> Values:
    """The values of a YAML file."""
    from graftlm.core.config import read_yaml

    if path is None:
        return {}
    if not path.exists():
        raise unknown("config file", str(path), [str(file) for file in sorted(path.parent.glob("*.y*ml"))])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {error}") from None
    values = read_yaml(text, f"config file {path}")
    if not isinstance(values, Mapping):
        raise UserError(f"config file {path} holds {_kind(values)}, not options as name: value")
    return _long(values)


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else f"the one value {str(value)[:40]!r}"


def _long(values: Mapping[str, Any]) -> Values:
    """`method: lora` as `method: {name: lora}`, so that options can be laid on it."""
    long = dict(values)
    for name, key in SHORT_FORMS:
        if isinstance(long.get(name), str):
            long[name] = {key: long[name]}
    return long


def layered(config: Values, flags: Values, options: Sequence[str]) -> Values:
    """The file, the flags on it, the `-o` pairs on both. Another method or task inherits no options."""
    from graftlm.core.config import merged, overrides

    values = config
    for over in (flags, _long(overrides(options))):
        changed = [key for key in ("method", "task") if _changes(_name(values, key), _name(over, key))]
        values = merged({name: value for name, value in values.items() if name not in changed}, over)
    return values


def _changes(old: str | None, new: str | None) -> bool:
    return old is not None and new is not None and old != new


def _name(values: Values, key: str) -> str | None:
    given = values.get(key)
    return given.get("name") if isinstance(given, Mapping) else None


def method_options(options: Sequence[str], method: str | None) -> Values:
    """The `-o method.rank=4` pairs of a command that has no other options."""
    from graftlm.core.config import overrides

    values = overrides(options)
    for name in values:
        if name != "method":
            raise UserError(f'no option "{name}" here; a method\'s options are written method.NAME=VALUE')
    own = values.get("method", {})
    if not isinstance(own, dict):
        raise UserError("name the method with --method, and its options as -o method.NAME=VALUE")
    if own and method is None:
        raise UserError(f"method.{next(iter(own))} needs a method; name it with --method")
    return own
