"""`graftlm methods` lists every method and shows each one whole."""

import shlex
from collections.abc import Callable

import pytest

from graftlm.cli._options import method_options
from graftlm.core.registry import facts, modules
from graftlm.methods import config_class, parse

Command = Callable[..., tuple[int, str, str]]
NAMES = sorted(modules("graftlm.methods"))
CONSTANTS = ("PAPER", "KIND", "MERGEABLE", "LEARNING_RATE", "TRAINS", "STORES")


def test_every_method_says_what_the_list_shows() -> None:
    missing = [(name, key) for name, row in facts("graftlm.methods").items() for key in CONSTANTS if key not in row]
    assert missing == []


def test_the_list_has_a_line_for_each_method_with_what_it_stores(graftlm: Command) -> None:
    found, out, err = graftlm("methods")
    title, header, *lines = out.splitlines()
    assert (found, err, title) == (0, "", "methods")
    assert [part.strip() for part in header.split("  ") if part.strip()] == [
        "name",
        "acts by",
        "trains",
        "stores",
        "mergeable",
        "paper",
    ]
    assert [line.split()[0] for line in lines if line] == NAMES
    assert next("r · (d_in + d_out) numbers a layer" in line for line in lines if line.startswith("lora"))


@pytest.mark.parametrize("name", NAMES)
def test_one_method_shows_its_docstring_and_every_option_with_its_default(name: str, graftlm: Command) -> None:
    found, out, err = graftlm("methods", name)
    assert (found, err) == (0, "")
    assert out.startswith(str(facts("graftlm.methods")[name]["doc"]))
    shown = [line.split()[0] for line in out.splitlines() if line.startswith("method.")]
    assert shown == [f"method.{option}" for option in config_class(name).model_fields]


def test_an_option_is_shown_as_it_is_written(graftlm: Command) -> None:
    lines = graftlm("methods", "lora")[1].splitlines()
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("method.")}
    assert " ".join(shown["method.rank"].split()) == "integer > 0 8"
    assert shown["method.sites"].endswith("[attention.query, attention.value]")
    assert " ".join(shown["method.dropout"].split()) == "number ≥ 0, < 1 0.0"


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_method_is_a_command_that_its_options_accept(name: str, graftlm: Command) -> None:
    words = shlex.split(graftlm("methods", name)[1].splitlines()[-1])
    assert words[:2] == ["graftlm", "fit"]
    assert words[words.index("--method") + 1] == name
    pairs = [words[place + 1] for place, word in enumerate(words) if word == "-o"]
    assert parse(name, method_options(pairs, name)) == parse(name, facts("graftlm.methods")[name].get("EXAMPLE", {}))


def test_an_unknown_name_is_an_error_that_names_the_nearest(graftlm: Command) -> None:
    assert graftlm("methods", "prefx") == (2, "", 'error: no method "prefx"; did you mean "prefix"?\n')
