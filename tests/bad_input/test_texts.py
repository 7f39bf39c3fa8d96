"""Texts of any length and any script get an answer; what is no text is refused in a line."""

import json
from pathlib import Path

import pytest

from bad_input.cases import Call, Case, fit, lines, refused, write
from graftlm import api
from graftlm.core.reporter import Notice, Silent

TEXT = [{"text": "a day", "label": "good"}]
PAIRS = [{"premise": "a day", "hypothesis": word, "label": word} for word in ("good", "bad")]


def evaluate(more: str) -> str:
    return f"evaluate --model model --data data --template '{{text}} {{mask}}' {more}"


def template(more: str) -> str:
    return f"template --model model --text a {more}"


CASES = [
    Case("nothing to ask", "predict run", "give either --text or --file"),
    Case("two sources", "predict run --text a --file b.jsonl", "give either --text or --file"),
    Case("bytes that are no text", "predict run --text \udcff", "the text '\\udcff' is not UTF-8"),
    Case(
        "a pair for a run of single texts", "predict run --text a --text-pair b", "trained on single texts, but input 1"
    ),
    Case("fewer pairs than texts", "predict run --text a --text b --text-pair c", "2 --text but 1 --text-pair"),
    Case(
        "pairs in a file",
        "predict run --file a.jsonl",
        "trained on single texts, but input 1 is a pair",
        {"a.jsonl": PAIRS},
    ),
    Case("no such file", "predict run --file a.jsonl", 'no file or folder "a.jsonl"'),
    Case("an empty file", "predict run --file a.jsonl", "a.jsonl holds no examples", {"a.jsonl": ""}),
    Case(
        "no text in a row",
        "predict run --file a.jsonl",
        "a.jsonl line 2: text is missing",
        {"a.jsonl": '{"text": "a"}\n{"label": 1}\n'},
    ),
    Case(
        "a number for a text",
        "predict run --file a.jsonl",
        "a.jsonl line 1: text is 3, not a string",
        {"a.jsonl": '{"text": 3}\n'},
    ),
    Case("no text column", "predict run --file a.csv", "a.csv has no text column", {"a.csv": "words\na\n"}),
    Case("answers into a folder", "predict run --text a --to data", "--to data is a folder; name a file"),
    Case("answers nowhere", "predict run --text a --to no/a.jsonl", "--to no/a.jsonl: there is no folder no"),
    Case(
        "answers over the texts",
        "predict run --file a.jsonl --to ./a.jsonl",
        "--to a.jsonl is the file of the texts, which the answers would replace; name another file",
        {"a.jsonl": TEXT},
    ),
    Case(
        "answers over the texts by another name",
        "predict run --file a.jsonl --to link.jsonl",
        "--to link.jsonl is the file of the texts",
        {"a.jsonl": TEXT},
        lambda: Path("link.jsonl").symlink_to("a.jsonl"),
    ),
    Case(
        "answers over the candidates",
        "predict run --text a --rank a.jsonl --to a.jsonl",
        "--to a.jsonl is the file of the candidates",
        {"a.jsonl": TEXT},
    ),
    Case(
        "answers over the run",
        "predict run --text a --to run/adapter/graftlm.json",
        "--to run/adapter/graftlm.json is a file of the run",
    ),
    Case(
        "predictions over the data",
        "evaluate run --data run/predictions.jsonl --predict",
        "the predictions would replace the data, run/predictions.jsonl; copy it to another place",
        {"run/predictions.jsonl": TEXT},
    ),
    Case(
        "a run over its data",
        fit("--overwrite", data="run/predictions.jsonl", out="run"),
        "the data, run/predictions.jsonl, would be overwritten; copy it to another place",
        {"run/predictions.jsonl": TEXT},
    ),
    Case("columns of no file", "predict run --text a --columns text=b", "--columns is of the columns of --file"),
    Case("marks of no file", "predict run --text a --mark a,b", "--mark is of the columns of --file"),
    Case("best of no candidates", "predict run --text a --top 3", "--top says how many candidates of --rank FILE"),
    Case(
        "answers of no run",
        evaluate('--verbalizer \'{"good": "great", "bad": "sad"}\' --predict'),
        "--predict writes into a run's folder, and an untrained model has none",
    ),
    Case(
        "calibration of no template",
        "evaluate --model model --data data --calibration pmi",
        "calibration is of a prompt, which needs a template too, as --template",
    ),
    Case("a template of nothing", template("'{text}'"), 'template "{text}" has no {mask}, where the model says a word'),
    Case("no room", template("'{text} {mask}' --max-length 0"), "'--max-length'"),
    Case("a row of no data", template("'{text} {mask}' --row 2 --split test"), "--split, --row: of --data alone"),
    Case("no batch", "predict run --text a --batch-size 0", "'--batch-size'"),
    Case(
        "no room for a text", fit("-o training.max_length=2"), "max_length = 2 leaves no token for a text beside the 2"
    ),
    Case(
        "a prompt longer than the positions",
        fit("-o method.length=30", method="prompt-tuning"),
        'run "run" puts 30 virtual tokens before the text, but model has 32 positions',
    ),
    Case(
        "pairs without room",
        fit("-o training.max_length=3", data="p"),
        "max_length = 3 leaves no token for a text beside the 3",
        {"p/train.jsonl": PAIRS},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_no_text_is_refused(case: Case, graftlm: Call) -> None:
    refused(case, graftlm)


TEXTS = {
    "empty": "",
    "only spaces": " \t\n ",
    "long": "good day " * 500,
    "one word of a megabyte": "a" * (1 << 20),
    "emoji": "good 👍🏽 👩‍👩‍👧‍👦 🇺🇳",
    "right to left": "יום טוב good يوم جيد",
    "directions": "\u202egood\u202c",
    "combining marks": "go\u0301o\u0300d" + "\u0301" * 500,
    "Chinese": "今天天气很好 good",
    "NUL": "good\0day",
    "controls": "".join(map(chr, range(1, 32))) + "good",
    "no characters": "\ufffe\uffff\U0010ffff",
    "line ends": "good\u2028day\u2029\x85\r\n",
    "special words": "[PAD] [MASK] [SEP] [CLS] good",
}


@pytest.mark.parametrize("name", TEXTS)
def test_odd_texts_are_answered(name: str, graftlm: Call) -> None:
    write({"a.jsonl": lines([{"text": TEXTS[name]}, {"text": "good"}])})
    found, out, _ = graftlm("predict", "run", "--file", "a.jsonl")
    answers = [json.loads(line) for line in out.splitlines()]
    alone = json.loads(graftlm("predict", "run", "--text", "good")[1])
    assert found == 0
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    assert answers[1] == {"label": "good", "probabilities": pytest.approx(alone["probabilities"], abs=1e-6)}


def test_odd_texts_can_be_trained_on(graftlm: Call) -> None:
    rows = [{"text": text, "label": ("good", "bad")[place % 2]} for place, text in enumerate(TEXTS.values())]
    write({"d/train.jsonl": lines(rows), "d/validation.jsonl": lines(rows)})
    found, _, err = graftlm(*fit("--epochs 1", data="d").split())
    assert found == 0
    assert "1 texts of train are empty" in err or "2 texts of train are empty" in err
    assert "texts are longer than 32 tokens and were cut" in err


def test_what_was_cut_is_counted(graftlm: Call) -> None:
    write({"a.jsonl": lines([{"text": "good " * size} for size in (10, 30, 31, 100)])})
    found, out, err = graftlm("predict", "run", "--file", "a.jsonl")
    assert (found, len(out.splitlines())) == (0, 4)
    assert err == "warning: 2 texts are longer than 32 tokens and were cut\n"


class Hearing(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_what_was_cut_is_a_warning_in_python_and_is_told_to_the_reporter_that_a_run_was_loaded_with(
    graftlm: Call,
) -> None:
    long, said = "good " * 40, "1 texts are longer than 32 tokens and were cut"
    write({"a.jsonl": lines([{"text": long, "label": "good"}, {"text": "bad", "label": "bad"}])})
    for ask in (lambda: api.load("run").predict([long]), lambda: api.evaluate("run", "a.jsonl")):
        with pytest.warns(Notice, match=said) as found:
            ask()
        assert found[0].filename == __file__
    hearing = Hearing()
    api.load("run", hearing).predict([long])
    assert hearing.said == [said]


@pytest.mark.parametrize(
    "name", ["a run", "ein Lauf für später", "跑", "run.v1.", ".hidden", "-o", "a'b\"c", "a\nb", "🏃"]
)
def test_a_run_may_have_any_name(name: str, graftlm: Call) -> None:
    out = f"./{name}"
    assert (
        graftlm("fit", "--model", "model", "--data", "data", "--method", "lora", "--out", out, "--epochs", "1")[0] == 0
    )
    assert Path(name, "adapter/graftlm.json").exists()
    assert graftlm("predict", out, "--text", "good")[0] == 0
