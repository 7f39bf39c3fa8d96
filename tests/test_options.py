"""A config's options in words."""

from collections.abc import Mapping
from typing import Literal

import pytest
from pydantic import Field, NonNegativeFloat, PositiveInt

from graftlm.cli._options import prompt_values
from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.options import options
from graftlm.core.settings import TrainingConfig
from graftlm.tasks import generation


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


def test_a_text_stands_for_a_list_of_one_where_only_a_list_is_taken() -> None:
    assert TrainingConfig.parse({"trackers": "tensorboard"}).trackers == ("tensorboard",)
    assert generation.Options.parse({"metrics": "numeric_match"}).metrics == ("numeric_match",)
    assert Outer.parse({"needed": "a", "parts": "all"}).parts == "all"


@pytest.mark.parametrize("words", ["{}", ""])
def test_a_verbalizer_without_labels_is_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"--verbalizer .*write it as"):
        prompt_values("{text} {mask}", words)


def test_a_label_that_is_no_text_is_refused_with_what_to_write() -> None:
    with pytest.raises(UserError, match='the key 1 is no text; write it in quotes, as "1"'):
        prompt_values("{text} {mask}", "{1: bad, 2: good}")
