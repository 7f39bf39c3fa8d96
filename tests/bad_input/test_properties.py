"""Whatever is given, what comes back is a value or a line for its user."""

import csv
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graftlm import UserError
from graftlm.cli._options import layered
from graftlm.core.config import overrides, read_yaml
from graftlm.core.files import new_folder, read_json, write_json
from graftlm.core.options import options
from graftlm.core.registry import modules
from graftlm.core.settings import DataConfig, FitConfig
from graftlm.methods import config_class
from graftlm.tasks import load, read_texts
from graftlm.tasks._columns import KEYS
from graftlm.tasks._read import read_file

HERE = [HealthCheck.function_scoped_fixture]  # one folder for all examples does no harm: each writes its files anew
METHODS = sorted(modules("graftlm.methods"))
NAMES = sorted({option.name for method in METHODS for option in options(config_class(method))})

WORDS = st.sampled_from([*FitConfig.model_fields, *DataConfig.model_fields, *NAMES, "name", "lora", "x"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | WORDS, inner, max_size=4),
    max_leaves=8,
)
CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
FILE_NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))


def judged(call: Callable[[], Any]) -> Any:
    """What a call gives, or None where it is refused."""
    with suppress(UserError):
        return call()
    return None


@settings(deadline=None)
@given(st.dictionaries(WORDS, NESTED, max_size=6))
@example({"model": "m", "data": "d", "method": {"name": []}, "out": "o"})
def test_any_values_are_a_run_s_config_or_refused(values: dict[str, Any]) -> None:
    complete = {"model": "m", "data": "d", "method": "lora", "out": "o"}
    for given_values in (values, complete | values):
        judged(lambda given_values=given_values: FitConfig.parse(given_values))


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(values=st.dictionaries(WORDS, NESTED, max_size=4))
def test_any_values_are_a_method_s_config_or_refused(method: str, values: dict[str, Any]) -> None:
    judged(lambda: config_class(method).parse(values, where="method."))


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("[]{}:,&*!-? \n\t\"'|>%@ab1", max_size=40))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    judged(lambda: read_yaml(text, "here"))


@settings(deadline=None)
@given(st.lists(st.text("abc.=[]{}:1", max_size=12), max_size=4))
def test_any_overrides_are_values_or_refused(pairs: list[str]) -> None:
    judged(lambda: overrides(pairs))
    judged(lambda: layered({"method": {"name": "lora"}}, {}, pairs))


@settings(deadline=None, suppress_health_check=HERE)
@given(
    columns=st.dictionaries(
        st.sampled_from(KEYS) | st.text(max_size=4), st.sampled_from(["a", "b", "c"]) | st.text(max_size=4)
    ),
    mark=st.none() | st.tuples(st.sampled_from(["a", "b", "z"]), st.sampled_from(["a", "b", "z"])),
    task=st.sampled_from(["classification", "regression"]),
)
def test_any_mapping_of_columns_is_data_or_refused(columns: dict[str, str], mark: Any, task: str) -> None:
    Path("c.jsonl").write_text('{"a": "a b", "b": "b", "c": 0.5}\n{"a": "b a", "b": "a", "c": 1}\n')
    config = DataConfig(path="c.jsonl", columns=columns, mark=mark)
    judged(lambda: load(config, task, ("train",)))
    judged(lambda: read_texts("c.jsonl", columns, mark))


@settings(deadline=None, suppress_health_check=HERE)
@given(content=st.binary(max_size=60) | st.text('{}[]",:\n\r\\u\ufeff01texlab ', max_size=60).map(str.encode))
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_any_bytes_are_data_or_refused(suffix: str, content: bytes) -> None:
    path = Path(f"any.{suffix}")
    path.write_bytes(content)
    judged(lambda: load(DataConfig(path=str(path)), "classification", ("train",)))
    judged(lambda: read_texts(path))


@settings(deadline=None, suppress_health_check=HERE)
@given(st.lists(st.fixed_dictionaries({"text": CELLS, "label": CELLS}), min_size=1, max_size=5))
def test_what_is_written_as_json_lines_is_read_again(rows: list[dict[str, str]]) -> None:
    for ascii_only in (True, False):
        Path("r.jsonl").write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode())
        table = read_file(Path("r.jsonl"))
        assert {name: list(values) for name, values in table.columns.items()} == {
            name: [row[name] for row in rows] for name in ("text", "label")
        }


@settings(deadline=None, suppress_health_check=HERE)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_is_written_as_csv_is_read_again(rows: list[tuple[str, str]], end: str, mark: str) -> None:
    with Path("r.csv").open("w", encoding=mark, newline="") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    table = read_file(Path("r.csv"))
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows


@settings(deadline=None, suppress_health_check=HERE)
@given(FILE_NAMES, NESTED)
@example("a" * 40, {})
@example("...", {})
@example(" ", {})
@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid more names")
def test_any_name_is_a_folder_that_can_be_written_and_read(name: str, values: Any) -> None:
    folder = Path("names") / name
    with suppress(ValueError), new_folder(folder) as temporary:  # ValueError: NaN is refused
        write_json(temporary / name, values)
    if folder.exists():
        assert read_json(folder / name, "file") == json.loads(json.dumps(values))
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{name}.")] == []
