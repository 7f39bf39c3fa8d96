"""The kinds of values in PEFT's `adapter_config.json`, checked before any is read."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from graftlm.core.config import Config
from graftlm.core.errors import UserError, unknown

METHODS = {  # PEFT's types that are read, and whose words they are
    "LORA": "lora",
    "IA3": "ia3",
    "PROMPT_TUNING": "prompt-tuning",
    "P_TUNING": "ptuning",
    "PREFIX_TUNING": "prefix",
}


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regex ({error})") from None
    return text


def _words(value: str | list[str] | None) -> str | list[str] | None:
    return _regex(value) if isinstance(value, str) else value


Regex = Annotated[str, AfterValidator(_regex)]
Words = Annotated[str | list[str] | None, AfterValidator(_words)]  # a text alone is a regex, as in PEFT


class PeftBody(Config):
    """The keys that are read of any type; others may hold anything and are judged where the type's words are read."""

    model_config = ConfigDict(extra="allow")

    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: PositiveFloat = 8
    lora_dropout: NonNegativeFloat = 0
    rank_pattern: Mapping[Regex, PositiveInt] | None = None
    alpha_pattern: Mapping[Regex, PositiveFloat] | None = None
    target_modules: Words = None
    exclude_modules: Words = None
    feedforward_modules: Words = None
    modules_to_save: list[Regex] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: list[Regex] | Regex | None = None
    num_virtual_tokens: PositiveInt | None = None
    num_transformer_submodules: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None


def check_body(body: Mapping[str, Any]) -> None:
    """Refuses a config of a type that is not read, then one with a value of another kind than PEFT writes, by its key.

    Other types' keys may hold what these types' may not: `r` is 0 where OFT does not use it.
    """
    if isinstance(kind := body.get("peft_type"), str) and kind not in METHODS:
        raise unknown("peft_type that can be read", kind, METHODS)
    try:
        PeftBody.parse(body)
    except UserError as error:
        raise UserError(f"adapter_config.json: {error}") from None
