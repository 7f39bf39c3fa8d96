import pytest

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load


def read(write, row, task="classification", **columns):
    other = {name: value + 1 if isinstance(value, int) else value for name, value in row.items()}
    path = write("a.jsonl", [row, other])
    return load(DataConfig(path=str(path), columns=columns), task, ("train",))


@pytest.mark.parametrize("name", ["text", "sentence", "content", "review", "tweet", "body", "Text"])
def test_a_text_is_found_by_its_usual_names(write, name):
    assert read(write, {"other": "x", name: "a", "label": 0}).splits["train"][0].text == "a"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("text_a", "text_b"),
        ("text", "text_pair"),
    ],
)
def test_a_pair_is_found_by_its_usual_names(write, first, second):
    data = read(write, {second: "b", first: "a", "label": 0})
    assert data.pair
    assert (data.splits["train"][0].text, data.splits["train"][0].text_pair) == ("a", "b")


@pytest.mark.parametrize("name", ["label", "labels", "target", "class", "stars", "category", "Label"])
def test_a_label_is_found_by_its_usual_names(write, name):
    assert read(write, {"text": "a", name: 0}).labels == ("0", "1")


@pytest.mark.parametrize("name", ["score", "rating", "value", "label"])
def test_a_score_is_found_by_its_usual_names(write, name):
    assert read(write, {"text": "a", name: 0.5}, task="regression").splits["train"][0].score == 0.5


def test_columns_that_are_mapped_win(write):
    data = read(write, {"text": "no", "words": "yes", "label": 0, "points": 3}, text="words", label="points")
    assert data.splits["train"][0].text == "yes"
    assert data.labels == ("3", "4")


def test_a_mapped_text_alone_is_a_single_text(write):
    assert not read(write, {"premise": "a", "hypothesis": "b", "label": 0}, text="premise").pair


def test_the_names_of_another_label_column_are_not_taken(write):
    data = read(write, {"text": "a", "label": 0, "label_text": "zero", "points": 3}, label="points")
    assert data.labels == ("3", "4")


def test_what_was_taken_is_said(write):
    assert any("text=body" in note and "label=stars" in note for note in read(write, {"body": "a", "stars": 1}).notes)


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"words": "a", "label": 0}, {}, "--columns text=NAME"),
        ({"text": "a", "mark": 0}, {}, "--columns label=NAME"),
        ({"text": "a", "label": 0}, {"text": "txet"}, 'no column "txet"; did you mean "text"?'),
        ({"text": "a", "label": 0}, {"txt": "text"}, 'no key of columns "txt"; did you mean "text"?'),
    ],
)
def test_a_column_that_is_not_found_is_named_with_what_would_help(write, row, columns, said):
    with pytest.raises(UserError) as error:
        read(write, row, **columns)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
