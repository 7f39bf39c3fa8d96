"""A config's options in words."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from graftlm.core.config import Config
from graftlm.core.options import options


class Inner(Config):
    rank: PositiveInt = 8


class Outer(Config):
    needed: str
    inner: Inner = Inner()
    parts: tuple[str, ...] | Literal["all"] = ("a", "b")
    pair: tuple[str, int] | None = None
    rates: Mapping[str, NonNegativeFloat] = {"b": 1.0, "a": 2.0}
    share: NonNegativeFloat = Field(0.5, lt=1)
    steps: Literal[1, 2, "many"] = 2
    names: list[str] = Field(default_factory=list)


def test_types_are_said_in_words_and_defaults_in_yaml() -> None:
    assert [(each.name, each.type, each.default) for each in options(Outer)] == [
        ("needed", "text", "required"),
        ("inner", "options (rank)", "{rank: 8}"),
        ("parts", 'list of text or "all"', "[a, b]"),
        ("pair", "list of text and integer or null", "null"),
        ("rates", "mapping of text to number ≥ 0", "{b: 1.0, a: 2.0}"),
        ("share", "number ≥ 0, < 1", "0.5"),
        ("steps", '1 or 2 or "many"', "2"),
        ("names", "list of text", "[]"),
    ]
