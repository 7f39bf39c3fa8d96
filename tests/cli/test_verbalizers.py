"""Verbalizers from the command line: as text or a file, with words of several tokens, calibration and masked words."""

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from prompts.models import rows, saved, write

TEMPLATE = "{text:shorten} w5 , {mask} ."
SPLIT = {"a": "w1 w3", "b": "w2"}


@pytest.fixture
def base(tmp_path: Path) -> str:
    return saved("bert", tmp_path / "base")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", rows(24))


def test_a_verbalizer_is_a_file_or_text_and_rules_are_laid_on_it(
    graftlm: Command, base: str, data: str, tmp_path: Path
) -> None:
    file = tmp_path / "words.json"
    file.write_text(json.dumps(SPLIT))
    asked = ("evaluate", "--model", base, "--data", data, "--cut", "test=1.0", "--template", TEMPLATE, "--quiet")
    code, _, err = graftlm(*asked, "--verbalizer", str(file))
    assert code == 2
    assert '"w1 w3" is 2 tokens' in err
    found = {}
    for words in (str(file), json.dumps(SPLIT), json.dumps({"name": "manual", "words": SPLIT})):
        code, out, err = graftlm(*asked, "--verbalizer", words, "--multi-mask", "full")
        assert code == 0, err
        found[words] = [line for line in out.splitlines() if line.startswith("loss")]
    assert len({str(lines) for lines in found.values()}) == 1
    code, out, _ = graftlm(*asked, "--verbalizer", str(file), "--multi-mask", "full", "--calibration", "pmi")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("loss")] != found[str(file)]


def test_a_run_keeps_its_calibration_and_its_share_of_masked_words(
    graftlm: Command, base: str, data: str, tmp_path: Path
) -> None:
    code, _, err = graftlm(
        *("fit", "--model", base, "--data", data, "--split", "train=0.7,validation=0.3", "--method", "lora"),
        *("--template", TEMPLATE, "--verbalizer", '{"name": "soft", "words": {"a": "w1", "b": "w2"}}'),
        *("--calibration", "contextual", "--mlm-weight", "0.1", "--out", str(tmp_path / "run")),
        *("-o", "training.max_steps=2", "--quiet"),
    )
    assert code == 0, err
    kept = json.loads((tmp_path / "run/adapter/graftlm.json").read_text())["prompt"]
    assert (kept["calibration"], kept["mlm_weight"]) == ("contextual", 0.1)
    assert kept["verbalizer"]["name"] == "soft"
    assert json.loads((tmp_path / "run/run.json").read_text())["parameters"]["head"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--verbalizer", '{"a": "w1", "b": "zebra"}'), '"zebra" is not in the vocabulary'),
        (
            ("--verbalizer", '{"name": "sof", "words": {"a": "w1", "b": "w2"}}'),
            'no verbalizer "sof"; did you mean "soft"',
        ),
        (
            ("--verbalizer", '{"name": "soft", "words": {"a": "w1", "b": "w2"}, "varant": 1}'),
            "prompt.verbalizer.varant",
        ),
        (("--multi-mask", "full"), "name those too"),
        (
            ("--verbalizer", '{"name": "soft", "words": {"a": "w1"}}', "--multi-mask", "full"),
            'the verbalizer is "soft"',
        ),
        (("--verbalizer", '{"a": "w1", "b": "w2"}', "--calibration", "cont"), "prompt.calibration = 'cont'"),
        (("--verbalizer", '{"name": "likelihood"}'), "found in labelled examples"),
    ],
)
def test_a_mistake_is_one_line(graftlm: Command, base: str, data: str, flags: tuple[str, ...], said: str) -> None:
    code, _, err = graftlm(
        *("evaluate", "--model", base, "--data", data, "--cut", "test=1.0", "--template", TEMPLATE, *flags)
    )
    assert code == 2
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("error")]) == 1
