import pytest

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load, read_texts

TEXT = "Ada Lovelace was born in London."


def marked(write, head, tail, text=TEXT):
    path = write("a.jsonl", [{"text": text, "head": head, "tail": tail}])
    return read_texts(path, mark=("head", "tail"))[0].text


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("Ada Lovelace", "London"),
        ([0, 12], [25, 31]),
        ({"start": 0, "end": 12}, {"start": 25, "end": 31}),
    ],
)
def test_entities_are_marked_by_their_words_or_by_their_places(write, head, tail):
    assert marked(write, head, tail) == "[E1] Ada Lovelace [/E1] was born in [E2] London [/E2]."
    assert marked(write, tail, head) == "[E2] Ada Lovelace [/E2] was born in [E1] London [/E1]."


def test_words_are_found_whole_before_they_are_found_in_others(write):
    assert marked(write, "art", "x", "party art x") == "party [E1] art [/E1] [E2] x [/E2]"
    assert marked(write, "art", "x", "party x") == "p[E1] art [/E1]y [E2] x [/E2]"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("रामा और राम", "रामा [E2] और [/E2] [E1] राम [/E1]"),
        ("रामा राम और", "रामा [E1] राम [/E1] [E2] और [/E2]"),
        ("\u0627राम और", "\u0627[E1] राम [/E1] [E2] और [/E2]"),
    ],
)
def test_an_entity_ends_with_the_marks_of_its_last_letter(write, text, found):
    assert marked(write, "राम", "और", text) == found


def test_the_same_words_twice_are_two_places(write):
    assert marked(write, "he", "he", "he saw he") == "[E1] he [/E1] saw [E2] he [/E2]"


def test_an_entity_inside_another_is_marked_inside_it(write):
    assert marked(write, "York", "New York", "in New York") == "in [E2] New [E1] York [/E1] [/E2]"


@pytest.mark.parametrize(
    ("head", "tail", "said"),
    [
        ("Paris", "London", 'head "Paris" does not occur in the text'),
        ([0, 99], "London", "is no part of a text of 32 characters"),
        ([5, 5], "London", "is no part of a text"),
        ("", "London", "head is empty"),
        (None, "London", "head is null"),
        ([0, 12], [4, 20], "cross each other"),
    ],
)
def test_entities_that_cannot_be_marked_are_refused_with_their_line(write, head, tail, said):
    with pytest.raises(UserError) as error:
        marked(write, head, tail)
    assert "a.jsonl line 1: " in str(error.value)
    assert said in str(error.value)


def test_relations_are_classes_of_marked_texts(folder):
    rows = [{"text": TEXT, "head": "Ada", "tail": "London", "relation": relation} for relation in ("born", "died")]
    data = load(DataConfig(path=folder(train=rows), mark=("head", "tail")), "classification")
    assert data.labels == ("born", "died")
    assert data.splits["train"][0].text.startswith("[E1] Ada [/E1]")


def test_pairs_are_not_marked(folder):
    rows = [{"premise": "a", "hypothesis": "b", "head": "a", "tail": "b", "label": n} for n in range(2)]
    with pytest.raises(UserError, match="marks one text"):
        load(DataConfig(path=folder(train=rows), mark=("head", "tail")), "classification")


def test_a_mark_column_that_is_not_there_is_named(folder):
    rows = [{"text": TEXT, "head": "Ada", "tail": "London", "label": n} for n in range(2)]
    with pytest.raises(UserError, match='no column "haed"; did you mean "head"'):
        load(DataConfig(path=folder(train=rows), mark=("haed", "tail")), "classification")
