"""Templates: a text with fields in braces, "{question} Answer:". What stands in a field is never read as a template."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

FIELD = re.compile(r"\{\{|\}\}|\{([^{}\s][^{}\n]*)\}")


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):  # YAML takes {text} for a mapping
        name = next(iter(value), "text")
        raise ValueError(f'is read as a mapping; put it into quotes of its own, as "{{{name}}}"')
    return value


Template = Annotated[str, BeforeValidator(_written)]


def fields(template: str) -> tuple[str, ...]:
    """The names of a template's fields, each once, in order."""
    return tuple(dict.fromkeys(match[1] for match in FIELD.finditer(template) if match[1]))


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its fields' values; {{ and }} stand for one brace, and a brace alone for itself."""
    return FIELD.sub(lambda match: values[match[1]] if match[1] else match[0][0], template)
