"""Data that cannot be learned from are refused in a line that says where and what; odd data that can be are read."""

import json
from pathlib import Path

import pytest

from bad_input.cases import Call, Case, fit, lines, refused, write

GOOD = [{"text": "a good day", "label": "good"}, {"text": "a bad day", "label": "bad"}]
NUMBERED = [{"text": "a good day", "label": 0}, {"text": "a bad day", "label": 1}]
SCORED = [{"text": "a good day", "score": 0.75}, {"text": "a bad day", "score": 0.25}]


def one(name: str, said: str, content: str | bytes | list[dict], more: str = "", file: str = "a.jsonl") -> Case:
    """A case of one file that is trained on."""
    return Case(name, fit(more, data=file), said, {file: content})


def scores(name: str, said: str, content: str) -> Case:
    return one(name, said, content, "--task regression")


def sparse() -> None:
    """A file of one line of a gigabyte, which takes no room."""
    with Path("a.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.truncate(1 << 30)


def parquet(**columns: list) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), "a.parquet")


CASES = [
    Case("missing", fit(data="dta"), 'no file or folder "dta"; did you mean "data"?'),
    Case("missing, a path", fit(data="./data/trian.jsonl"), 'did you mean "data/train.jsonl"?'),
    Case("missing, to be cut", fit("--split train=0.5", data="data.json"), 'no file or folder "data.json"'),
    Case("hub name", fit(data="acme/none"), 'no file or folder "acme/none"; nor could it be had as a dataset'),
    Case("file of another kind", fit(data="a.txt"), 'a.txt ends in ".txt"; data files end in .jsonl', {"a.txt": "a"}),
    Case("empty folder", fit(data="none"), "none has no train, validation or test file", change=Path("none").mkdir),
    Case("no train split", fit(data="d"), 'no split "train" in d; there is test', {"d/test.jsonl": GOOD}),
    Case(
        "two train splits",
        fit(data="d"),
        'd has two "train" splits',
        {"d/train.jsonl": GOOD, "d/train.csv": "text,label\na,1\n"},
    ),
    Case("directory for a file", "predict run --file data", "data is a folder; name a file"),
    Case(
        "directory named like a file",
        fit(data="d.jsonl"),
        "d.jsonl has no train, validation or test file",
        change=Path("d.jsonl").mkdir,
    ),
    one("empty", "a.jsonl holds no examples", ""),
    one("blank lines only", "a.jsonl holds no examples", "\n\n \n"),
    one("empty list", "a.json holds no examples", "[]", file="a.json"),
    one("header only", "a.csv holds no examples", "text,label\n", file="a.csv"),
    one("empty CSV", "a.csv holds no examples", "", file="a.csv"),
    one("one class", 'a.jsonl has one class only ("good")', GOOD[:1] * 4),
    Case(
        "label unseen in training",
        fit(data="d"),
        'd/validation.jsonl line 2: label "fine" is not among those of train: bad, good',
        {"d/train.jsonl": GOOD, "d/validation.jsonl": [GOOD[0], {"text": "a", "label": "fine"}]},
    ),
    one("broken JSON", "a.jsonl line 3: not JSON", lines(GOOD) + '{"text": "a", "label" 1}\n'),
    one("cut JSON", "a.jsonl line 3: not JSON", lines(GOOD) + '{"text": "a da'),
    one("broken list", "a.json: not JSON", '[{"text": "a", "label": 1},\n {"text": ]', file="a.json"),
    one("no object", "a.jsonl line 3: an example is an object", lines(GOOD) + '["a", 1]\n'),
    one("deep JSON", "a.jsonl line 3: not readable JSON", lines(GOOD) + "[" * 100_000 + "\n"),
    one("huge integer", "a.jsonl line 1: not readable JSON", '{"text": "a", "label": ' + "9" * 5000 + "}\n"),
    one(
        "more fields than the header",
        "a.csv line 3: 3 fields, but the header has 2",
        "text,label\na,1\nb,0,1\n",
        file="a.csv",
    ),
    one("quote left open", "a.csv line 3: not CSV", 'text,label\na,1\n"b,0\n', file="a.csv"),
    one("text behind a quote", "a.csv line 2: not CSV", 'text,label\n"b"x,0\n', file="a.csv"),
    one("bad UTF-8 in JSON", "a.jsonl line 3: not UTF-8", lines(GOOD).encode() + b'{"text": "\xff"}\n'),
    one("bad UTF-8 in CSV", "a.csv line 3: not UTF-8", b"text,label\na,1\n\xff,0\n", file="a.csv"),
    one("UTF-16 in JSON", "a.jsonl is UTF-16; save it as UTF-8", lines(GOOD).encode("utf-16")),
    one("UTF-16 in CSV", "a.csv is UTF-16; save it as UTF-8", "text,label\na,1\n".encode("utf-16"), file="a.csv"),
    one(
        "NUL byte in JSON", "a.jsonl line 2: a NUL byte", b'{"text": "a", "label": 1}\n{"text": "b\x00", "label": 0}\n'
    ),
    one("NUL byte in CSV", "a.csv line 3: a NUL byte", b"text,label\na,1\nb\x00,0\n", file="a.csv"),
    Case("line of a gigabyte", fit(data="a.jsonl"), "a.jsonl line 1 is longer than 16 MiB", change=sparse),
    one(
        "half a surrogate pair",
        "a.jsonl line 1: text holds half a surrogate pair",
        '{"text": "a\\ud800", "label": 1}\n{"text": "b", "label": 0}\n',
    ),
    scores(
        "score NaN",
        "a.jsonl line 3: score is NaN, not a finite number",
        lines(SCORED) + '{"text": "a", "score": NaN}\n',
    ),
    scores(
        "score infinite", "a.jsonl line 3: score is -Infinity", lines(SCORED) + '{"text": "a", "score": -Infinity}\n'
    ),
    scores(
        "score beyond floats", "a.jsonl line 3: score is Infinity", lines(SCORED) + '{"text": "a", "score": 1e999}\n'
    ),
    scores("score in words", 'a.jsonl line 3: score is "high"', lines(SCORED) + '{"text": "a", "score": "high"}\n'),
    scores("score true", "a.jsonl line 3: score is true", lines(SCORED) + '{"text": "a", "score": true}\n'),
    scores("score missing", "a.jsonl line 3: score is missing", lines(SCORED) + '{"text": "a"}\n'),
    scores("score nested", "a.jsonl line 3: score is [1]", lines(SCORED) + '{"text": "a", "score": [1]}\n'),
    scores("classes as scores", "holds no fractions; `--task classification` takes it for classes", lines(GOOD)),
    one("fractions as classes", "for numbers as targets use `--task regression`", [{"text": "a", "label": 0.5}]),
    one("label NaN", "a.jsonl line 3: label is missing", lines(GOOD) + '{"text": "a", "label": NaN}\n'),
    one("duplicate columns in CSV", 'a.csv has two columns named "text"', "text,text\na,b\n", file="a.csv"),
    one(
        "duplicate keys in JSON",
        'a.jsonl line 2: not readable JSON ("label" stands twice in one object)',
        '{"text": "a", "label": 1}\n{"text": "b", "label": 0, "label": 1}\n',
    ),
    one(
        "no text column", "has no text column that is known by name; it has words, label", [{"words": "a", "label": 1}]
    ),
    one("no label column", "has no label column that is known by name; it has text, mood", [{"text": "a", "mood": 1}]),
    one("mapped column missing", 'a.jsonl: no column "txt"; did you mean "text"?', GOOD, "--columns text=txt"),
    one("unknown key of columns", 'no key of columns "txt"; did you mean "text"?', GOOD, "--columns txt=text"),
    Case(
        "column missing in one split",
        fit(data="d"),
        'd/validation.jsonl: no column "label"',
        {"d/train.jsonl": GOOD, "d/validation.jsonl": [{"text": "a", "mood": "good"}]},
    ),
    one(
        "nested text",
        'a.jsonl line 3: text is {"en": "a"}, not a string',
        [*GOOD, {"text": {"en": "a"}, "label": "bad"}],
    ),
    one("text null", "a.jsonl line 3: text is missing", [*GOOD, {"text": None, "label": "bad"}]),
    one("text a number", "a.jsonl line 3: text is 3, not a string", [*GOOD, {"text": 3, "label": "bad"}]),
    one("label a list", "a.jsonl line 3: label is [1]; one class an example is", [*GOOD, {"text": "a", "label": [1]}]),
    one("labels of mixed type", 'a.jsonl line 3: label is 1, but "good" in line 1', [*GOOD, {"text": "a", "label": 1}]),
    one(
        "as many labels as examples",
        "a.jsonl has 10,001 different labels",
        [{"text": "a", "label": n} for n in range(10_001)],
    ),
    one(
        "entity that is not in the text",
        'a.jsonl line 1: head "night" does not occur',
        [{"text": "a day", "h": "night", "t": "day", "label": n} for n in (0, 1)],
        "--mark h,t",
    ),
    *(
        one(
            f"half a {column}",
            f"line 1: {column} holds half a surrogate pair",
            [{**NUMBERED[0], column: "\ud83d"}, NUMBERED[1]],
        )
        for column in ("label", "label_text", "id")
    ),
    scores("a score of code", 'line 1: score is "1_5", not a finite number', '{"text": "a", "score": "1_5"}\n'),
    scores(
        "a score beyond fp32", "line 1: score is 1e+39, and 3.403e+38 is the most", '{"text": "a", "score": 1e39}\n'
    ),
    one("few-shot of too few", "shots = 4 takes 8 examples of each", GOOD, "--shots 4"),
    one("an empty share", 'split "train" = 0.1 of the 2 rows in a.jsonl is none', GOOD, "--split train=0.1"),
    one("no Parquet", "a.parquet is not a readable Parquet file", b"PAR1 no", file="a.parquet"),
    Case(
        "Parquet of numbers",
        fit(data="a.parquet"),
        "a.parquet row 1: text is 1, not a string",
        change=lambda: parquet(text=[1, 2], label=[0, 1]),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_data_are_refused(case: Case, graftlm: Call) -> None:
    refused(case, graftlm)


WORKING = {
    "byte-order mark in JSON": ("a.jsonl", b"\xef\xbb\xbf" + lines(GOOD).encode()),
    "byte-order mark in CSV": ("a.csv", "\ufefftext,label\na good day,good\na bad day,bad\n".encode()),
    "byte-order mark in a list": ("a.json", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "CRLF in JSON": ("a.jsonl", lines(GOOD).replace("\n", "\r\n").encode()),
    "CRLF in CSV": ("a.csv", b"text,label\r\na good day,good\r\na bad day,bad\r\n"),
    "no line end at the end": ("a.jsonl", lines(GOOD).rstrip("\n").encode()),
    "blank lines": ("a.jsonl", lines(GOOD).replace("\n", "\n\n").encode()),
    "columns that nobody reads": ("a.jsonl", lines([row | {"x": {"deep": [1]}} for row in GOOD]).encode()),
}


@pytest.mark.parametrize("name", WORKING)
def test_odd_data_are_read(name: str, graftlm: Call) -> None:
    file, content = WORKING[name]
    write({file: content})
    assert graftlm(*fit("--epochs 1", data=file).split())[0] == 0
    card = json.loads(Path("out/adapter/graftlm.json").read_text())
    assert card["labels"] == ["bad", "good"]


@pytest.mark.slow
def test_a_million_labels_are_refused(graftlm: Call) -> None:
    content = "".join(f'{{"text": "a", "label": {number}}}\n' for number in range(1_000_000))
    refused(one("a million labels", "a.jsonl has 1,000,000 different labels, and 10,000 is the most", content), graftlm)
