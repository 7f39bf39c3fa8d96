"""Metrics of texts are those of the reference implementations, to the last digit; templates take any data."""

from decimal import Decimal

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from graftlm.tasks._templates import fields, render
from graftlm.tasks._text_metrics import METRICS, last_number, score

TEXTS = ["The cat sat on the mat .", "Ein Hund läuft !", "", "a b c d e f", "猫が好きです"]
REFERENCES = [
    ["The cat sat on a mat .", "A cat was sitting on the mat ."],
    ["Ein Hund läuft schnell !"],
    ["nothing", "void", "none at all"],
    ["a b c d e f"],
    ["猫が大好きです"],
]


def test_metrics_equal_the_reference_implementations() -> None:
    found = score(METRICS, TEXTS, REFERENCES, "13a")
    streams = [[own[place] if place < len(own) else None for own in REFERENCES] for place in range(3)]
    assert found["bleu"] == sacrebleu.corpus_bleu(TEXTS, streams).score
    assert found["chrf"] == sacrebleu.corpus_chrf(TEXTS, streams).score
    for name in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([name])
        each = [
            max(scorer.score(reference, text)[name].fmeasure for reference in own)
            for text, own in zip(TEXTS, REFERENCES, strict=True)
        ]
        assert found[name] == sum(each) / len(each)
    assert found["exact_match"] == 1 / 5
    chinese = score(["bleu"], ["我喜欢猫和狗"], [["我喜欢猫和鸟"]], "zh")
    assert chinese["bleu"] == sacrebleu.corpus_bleu(["我喜欢猫和狗"], [["我喜欢猫和鸟"]], tokenize="zh").score


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", "7"),
        ("$1,234.50 in all", "1234.5"),
        ("it fell to -3 degrees", "-3"),
        ("pages 5-12", "12"),
        ("about .5", "0.5"),
        ("x = −5", "-5"),
        ("1,2,3", "3"),
        ("10,20,30", "30"),
        ("1,00,000 rupees, 7", "7"),
        ("1,00,000 rupees", "100000"),
        ("about 5e3", "5000"),
        ("2.5E-1 of it", "0.25"),
        ("−3e−2", "-0.03"),
        ("room 5e", "5"),
        ("1e99999", "99999"),
        ("in 5e3b", "3"),
        ("costs 1,00", "1"),
        ("costs -12,05 euros", "-12.05"),
        ("1,2,03", "3"),
        ("none", None),
        ("٣ apples", "3"),
    ],
)
def test_the_last_number_counts_however_it_is_written(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))
    assert score(["numeric_match"], [text], [["= 7", f"it is {number}0.0"]], "13a")["numeric_match"] == float(
        number == "7"
    )


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text())
def test_what_stands_in_a_field_is_never_read_as_a_template(one: str, other: str) -> None:
    assert render('{{"a": "{x}", {y}}}', {"x": one, "y": other}) == f'{{"a": "{one}", {other}}}'


def test_fields_are_named_once_and_lone_braces_stand_for_themselves() -> None:
    assert fields("{a} {b c} {{d}} {a} { {}") == ("a", "b c")
    assert render("{a} { } {{a}}", {"a": "{a}"}) == "{a} { } {a}"
