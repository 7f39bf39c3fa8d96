"""Real sets of texts to write from, read by templates; references, numbers and mistakes in rows."""

from typing import Any

import pytest

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import load, parse, read_texts
from graftlm.tasks._prompted import values_of


def test_references_are_taken_where_a_split_has_them(shared: Any) -> None:
    data = load(DataConfig(path=shared("e2e_nlg")), parse({"prompt": "{mr}\nText:"}, "generation"))
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [3659, 100, 630]
    example = data.splits["test"][0]
    assert example.text == "name[Blue Spice], eatType[coffee shop], area[city centre]\nText:"
    assert len(example.answer) == 2
    assert example.meta["target"] == example.answer[0]
    assert all(len(each.answer) == 1 for each in data.splits["train"])


def test_outputs_beside_an_output_are_references(shared: Any) -> None:
    data = load(DataConfig(path=shared("instruction_induction")), "generation", splits=("test",))
    assert max(len(each.answer) for each in data.splits["test"]) > 1
    assert all(each.meta["target"] in each.answer for each in data.splits["test"])


@pytest.mark.parametrize(
    ("name", "options", "right"),
    [
        ("multi30k_en_de", {"prompt": "{en}", "target": "{de}"}, "Ein Mann mit einem orangefarbenen Hut"),
        ("gsm8k", {"prompt": "{question}", "target": "{rationale}\n#### {answer}"}, "market.\n#### 18"),
        ("ewt_spelling", {}, "This man was polite"),
    ],
)
def test_real_sets_are_read_by_their_columns(shared: Any, name: str, options: dict[str, Any], right: str) -> None:
    data = load(DataConfig(path=shared(name)), parse(options, "generation"), splits=("test",))
    assert right in data.splits["test"][0].meta["target"]


def test_cells_that_are_no_text_are_named_and_left_out(write: Any) -> None:
    rows = [{"text": "a", "target": 3}, {"text": None, "target": "b"}, {"text": ["x"], "target": "c"}]
    path = write("train.jsonl", rows)
    with pytest.raises(UserError, match="line 2: text is missing"):
        load(DataConfig(path=str(path)), "generation")
    data = load(DataConfig(path=str(path), skip_bad=True), "generation")
    assert [example.answer for example in data.splits["train"]] == [("3",)]
    with pytest.raises(UserError, match='no key of columns "txt"; did you mean "text"'):
        load(DataConfig(path=str(path), columns={"txt": "text"}), "generation")
    wrong = write("wrong.jsonl", [{"text": "a", "target": "b", "references": {"x": 1}}])
    with pytest.raises(UserError, match=r"line 1: references is .*, not a list"):
        load(DataConfig(path=str(wrong)), "generation")


def test_a_prompt_takes_its_fields_from_a_row_or_its_one_field_from_a_text(write: Any) -> None:
    (row,) = read_texts(write("ask.jsonl", [{"q": "why", "n": 2}]), {"question": "q"}, task="generation")
    assert values_of(row, "{question} {n} {q}") == {"question": "why", "n": "2", "q": "why"}
    assert values_of(Example("alone"), "Say: {anything}") == {"anything": "alone"}
    with pytest.raises(UserError, match=r'an input is a text alone, and task\.prompt has a field "a"'):
        values_of(Example("alone"), "{a} {b}")
    with pytest.raises(UserError, match=r'has q, n, question, and task\.prompt has a field "mr"'):
        values_of(row, "{mr}")


@pytest.mark.parametrize(
    ("cell", "right"),
    [
        ('"[""the cat"", ""a cat""]"', ("the cat", "a cat")),
        ("\"['the cat', 'a cat']\"", ("the cat", "a cat")),
        ("a cat", ("a cat",)),
        ("", ("cat",)),
        ("[]", ("cat",)),
        ('"[1, 2]"', ("[1, 2]",)),
    ],
)
def test_references_in_csv_are_a_list_or_one_text_or_the_target(cell: str, right: tuple[str], write: Any) -> None:
    path = write("train.csv", f"text,target,references\na,cat,{cell}\n")
    assert load(DataConfig(path=str(path)), "generation").splits["train"][0].answer == right


@pytest.mark.parametrize(
    ("cell", "right"), [(["a", ""], ("a",)), ([3, 4.5], ("3", "4.5")), (4, ("4",)), (None, ("c",)), ("", ("c",))]
)
def test_references_may_be_numbers_as_targets_may(cell: Any, right: tuple[str], write: Any) -> None:
    path = write("train.jsonl", [{"text": "a", "target": "c", "references": cell}])
    assert load(DataConfig(path=str(path)), "generation").splits["train"][0].answer == right


@pytest.mark.parametrize(
    ("task", "good", "name"),
    [
        ("generation", {"text": "a", "target": "c"}, "text"),
        ("generation", {"text": "a", "target": "c"}, "target"),
        ("generation", {"text": "a", "target": "c", "references": "c"}, "references"),
        ("cloze", {"text": "[MASK] a", "words": "c"}, "words"),
    ],
)
@pytest.mark.parametrize(("number", "said"), [("nan", "missing"), ("inf", "inf")])
def test_a_number_that_is_not_finite_is_no_text(
    task: str, good: dict[str, str], name: str, number: str, said: str, write: Any
) -> None:
    path = write("train.jsonl", [good, {**good, name: float(number)}])
    with pytest.raises(UserError, match=f"line 2: {name} is {said}"):
        load(DataConfig(path=str(path)), task)
    assert len(load(DataConfig(path=str(path), skip_bad=True), task).splits["train"]) == 1


def test_targets_without_a_letter_are_counted(write: Any) -> None:
    path = write("train.jsonl", [{"text": "a", "target": target} for target in ("b", "", "   ")])
    assert load(DataConfig(path=str(path)), "generation").notes[-1] == "2 targets of train are empty"


@pytest.mark.parametrize("cell", ['"[""x"", ""y""]"', "\"['x', 'y']\""])
def test_words_of_several_masks_are_a_list_in_csv(cell: str, write: Any) -> None:
    path = write("train.csv", f"text,words\n[MASK] a [MASK],{cell}\n")
    assert load(DataConfig(path=str(path)), "cloze").splits["train"][0].answer == ("x", "y")
