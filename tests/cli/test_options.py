"""Which of a config file, a flag and an `-o` pair wins."""

from importlib.resources import files
from pathlib import Path

from graftlm.cli._options import data_values, fractions, given, layered, method_options, pairs, read_config
from graftlm.core.settings import FitConfig


def test_flags_win_over_the_file_and_pairs_over_both() -> None:
    Path("run.yaml").write_text("model: a\nmethod: {name: lora, rank: 2, alpha: 4}\ntraining: {epochs: 1, clip: 2}\n")
    flags = {"method": {"name": "lora"}, "training": {"epochs": 2.0}, "seed": 0}
    values = layered(read_config(Path("run.yaml")), flags, ["training.epochs=3", "method.rank=8", "data=folder"])
    assert values == {
        "model": "a",
        "method": {"name": "lora", "rank": 8, "alpha": 4},
        "training": {"epochs": 3, "clip": 2},
        "seed": 0,
        "data": {"path": "folder"},
    }


def test_another_method_does_not_inherit_the_options_of_the_first() -> None:
    config = {"method": {"name": "lora", "rank": 2}}
    assert layered(config, {"method": {"name": "prefix"}}, [])["method"] == {"name": "prefix"}
    assert layered(config, {}, ["method=prefix"])["method"] == {"name": "prefix"}
    assert layered(config, {}, ["method.name=prefix", "method.length=3"])["method"] == {"name": "prefix", "length": 3}
    assert layered(config, {}, ["method=lora"])["method"] == {"name": "lora", "rank": 2}


def test_short_forms_in_a_file_take_flags_on_them() -> None:
    Path("run.yaml").write_text("data: folder\nmethod: lora\n")
    values = layered(read_config(Path("run.yaml")), {"data": {"shots": 4}}, ["method.rank=1"])
    assert values == {"data": {"path": "folder", "shots": 4}, "method": {"name": "lora", "rank": 1}}


def test_no_file_gives_no_values() -> None:
    assert read_config(None) == {}


def test_only_flags_that_were_used_are_given() -> None:
    assert given(seed=0, lr=None, head={}, predict=False) == {"seed": 0, "predict": False}
    assert data_values("d", None, {}, None, shots=None) == {"path": "d"}


def test_lists_of_pairs() -> None:
    assert pairs("text=body, label = stars", "--columns") == {"text": "body", "label": "stars"}
    assert pairs(None, "--columns") == {}
    assert fractions("train=.8,test=0.2") == {"train": 0.8, "test": 0.2}
    assert data_values("d", "text=a", {"train": 1.0}, "head,tail") == {
        "path": "d",
        "columns": {"text": "a"},
        "split": {"train": 1.0},
        "mark": ["head", "tail"],
    }


def test_a_methods_own_options() -> None:
    assert method_options(["method.rank=4", "method.sites=[a, b]"], "lora") == {"rank": 4, "sites": ["a", "b"]}
    assert method_options([], None) == {}


def test_options_of_a_task_without_its_name_are_those_of_classification() -> None:
    values = {"model": "m", "data": "d", "out": "o", "task": {"max_length": 8}}
    assert FitConfig.parse({**values, "method": "lora"}).task == {"name": "classification", "max_length": 8}


def test_the_package_says_that_it_is_typed() -> None:
    assert files("graftlm").joinpath("py.typed").is_file()
