"""PEFT's file format, both ways: what a method's file says of it, as `PEFT = PeftWords(form, read)`.

A form is made for one stored config on one model. Its two functions are pure, so that what is written is a matter of
names and blocks alone; the recipes add the head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig, module_of
from graftlm.methods._peft_body import METHODS, check_body
from graftlm.sites import Sites, Tensors

WHOLE = "base_model.model."  # before a parameter's path in the files of methods on layers
PROMPTED = "base_model."  # and in those of prompt types

# Keys of `adapter_config.json` that every type has and that change no result.
COMMON = frozenset(
    ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode")
)


class NoWordsError(UserError):
    """PEFT's format cannot say what was asked."""


@dataclass(frozen=True)
class PeftForm:
    """One adapter in PEFT's words.

    `body` is `adapter_config.json`, keys that are not PEFT's defaults only. `write` makes PEFT's tensors of ours,
    `read` ours of PEFT's, and refuses what `write` could not have made. `head` stands before a head's paths. `notes`
    are lines on what PEFT makes of it, for its user.
    """

    body: Mapping[str, Any]
    write: Callable[[Tensors], dict[str, Tensor]]
    read: Callable[[Tensors], dict[str, Tensor]]
    head: str = WHOLE
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Theirs:
    """A PEFT adapter in our words: a config, its tensors, and what else the file holds (a head) by parameter path.

    `notes` are lines that its user should read.
    """

    config: MethodConfig
    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeftWords:
    """A method's translation: `form` of a stored config, and `read` of a PEFT config of its type and its tensors."""

    form: Callable[[Any, Sites], PeftForm]
    read: Callable[[Mapping[str, Any], Tensors, Sites], Theirs] | None = None


def peft_form(config: MethodConfig, sites: Sites) -> PeftForm:
    """A stored config (`kept`) in PEFT's words; NoWordsError where there are none. Ask before anything is attached."""
    words: PeftWords | None = getattr(module_of(config), "PEFT", None)
    if words is None:
        raise NoWordsError(f"PEFT's format has no words for {config.method}; it has them for {_speakers()}")
    return words.form(config, sites)


def from_peft(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    """Which of our configs a PEFT adapter is, and its tensors by our names, on the model of `sites`."""
    from graftlm.core import registry
    from graftlm.methods._method import PACKAGE

    check_body(body)
    words: PeftWords = registry.load(PACKAGE, "method", METHODS[body["peft_type"]]).PEFT
    assert words.read is not None
    return words.read(body, tensors, sites)


def _speakers() -> str:
    return ", ".join(dict.fromkeys(METHODS.values()))


def heed(
    body: Mapping[str, Any], read: Sequence[str], harmless: Mapping[str, Any], refused: Mapping[str, str]
) -> tuple[str, ...]:
    """Goes through a PEFT config's keys, and gives a line about those that were set and are not kept.

    `read` are keys that the caller reads; `harmless` those that change no result, with PEFT's defaults, which are not
    worth a line; `refused` those that do, with what would help. A key that is none of these is refused where it is
    set, since it may change results.
    """
    unread: list[str] = []
    for key, value in body.items():
        if key in COMMON or key in read or value in (None, False, [], {}, ""):
            continue
        if key in refused:
            raise UserError(f"{key} = {str(value)[:60]} in adapter_config.json cannot be read: {refused[key]}")
        if key not in harmless:
            raise UserError(
                f"{key} = {str(value)[:60]} in adapter_config.json is not known here, and may change results; "
                "if it does not, take the key out of the file"
            )
        if value != harmless[key]:
            unread.append(f"{key} = {str(value)[:40]}")
    return (f"not kept, since no result depends on it: {', '.join(unread)}",) if unread else ()


def base_path(key: str) -> str:
    """The path in the base of a parameter of its own, in a file of methods on layers, whose layers PEFT wraps."""
    return key.removeprefix(WHOLE).replace(".base_layer.", ".")


def relative(path: str, sites: Sites) -> str:
    """A path in the family's class with a head, or in its backbone alone, as one in the backbone."""
    for prefix in (sites.class_prefix, sites.prefix):
        if prefix and path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def placed(path: str, sites: Sites) -> str:
    """A path in the family's class with a head, or in its backbone alone, as one in this model."""
    outside = {site.module for site in (*sites.all, *sites.others) if not site.module.startswith(sites.prefix)}
    return path if path in outside else sites.prefix + relative(path, sites)
