"""Spelling as edits of words: each fits back, texts keep all else, real data is read whole, and rows are counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import Encoded, load, parse, read_texts, task
from graftlm.tasks._edits import KEEP, aligned, edit, edited

WORD = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(WORD, st.text(max_size=6))
def test_an_edit_makes_the_right_word_of_the_wrong_one(wrong: str, right: str) -> None:
    assert edited(wrong, edit(wrong, right)) == right


@settings(max_examples=200, deadline=None)
@given(st.text("ab→\\\n", max_size=6), st.text("ab→\\\n", max_size=6))
def test_a_word_may_hold_an_edits_own_signs(wrong: str, right: str) -> None:
    assert edited(wrong, edit(wrong, right)) == right


@pytest.mark.parametrize(
    ("wrong", "right", "name"),
    [
        ("dont", "don't", "1$ →'"),
        ("wont", "won't", "1$ →'"),
        ("recieve", "receive", "2$ ie→ei"),
        ("a", "a", KEEP),
        ("a→b", "c", "^0 a\\→b→c"),
    ],
)
def test_words_that_are_wrong_alike_have_the_same_edit(wrong: str, right: str, name: str) -> None:
    assert edit(wrong, right) == name
    assert edited(wrong, name) == right
    assert edited("xyz", name) == ("xy'z" if name == "1$ →'" else "xyz")


@pytest.mark.parametrize(
    ("wrong", "right", "found"),
    [
        ("a b c", "a x c", ["a", "x", "c"]),
        ("i like it alot too", "i like it a lot too", ["i", "like", "it", "a lot", "too"]),
        ("very miss informed people", "very misinformed people", ["very", "misinformed", "", "people"]),
        ("b", "a b", ["a b"]),
        ("a b", "a b c", ["a", "b c"]),
        ("a a b", "a b", ["", "a", "b"]),
    ],
)
def test_words_that_become_several_or_none_are_aligned(wrong: str, right: str, found: list[str]) -> None:
    assert aligned(wrong.split(), right.split()) == found


def logits_for(rows: list[list[int]], size: int) -> torch.Tensor:
    out = torch.zeros(len(rows), max(map(len, rows)), size)
    for row, own in enumerate(rows):
        for place, label in enumerate(own):
            out[row, place, label] = 9.0
    return out


def test_a_text_is_set_right_with_all_else_as_it_was_and_counted_by_hand(write: Any) -> None:
    rows = [
        {"input": "I dont  know \N{PILE OF POO} teh way", "target": "I don't know \N{PILE OF POO} the way"},
        {"input": "it is is fine", "target": "it is fine"},
    ]
    data = load(DataConfig(path=str(write("train.jsonl", rows))), "spelling")
    problem = parse({}, "spelling", data.labels)
    examples = data.splits["train"]
    meaning = [list(range(len(example.words or ()))) for example in examples]
    encoded = Encoded(examples, [], range(2), meaning)
    right = [list(example.answer) for example in examples]
    first = task("spelling").decode(logits_for(right, len(data.labels)), encoded, problem)
    assert first[0]["text"] == "I don't  know \N{PILE OF POO} the way"
    assert first[0]["edits"][0] == {"start": 2, "end": 6, "wrong": "dont", "right": "don't"}
    assert first[1]["text"] == "it is fine"
    assert set(task("spelling").metrics(logits_for(right, len(data.labels)), encoded, problem).values()) == {1.0}
    none = [[0] * len(own) for own in right]
    none[0][1] = right[0][1]  # one of three edits is made
    found = task("spelling").metrics(logits_for(none, len(data.labels)), encoded, problem)
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(1 / 2)
    assert found["accuracy"] == pytest.approx(8 / 10)
    assert found["exact_match"] == 0


def test_the_margin_of_keeping_a_word_is_tuned_for_f1(write: Any) -> None:
    rows = [{"input": "teh cat", "target": "the cat"}, {"input": "a dgo", "target": "a dog"}]
    data = load(DataConfig(path=str(write("train.jsonl", rows))), "spelling")
    examples = data.splits["train"]
    encoded = Encoded(examples, [], range(2), [[0, 1], [0, 1]])
    logits = torch.zeros(2, 2, len(data.labels))
    logits[..., 0] = 5.0  # all words would be kept
    for row, place in ((0, 0), (1, 1)):
        logits[row, place, examples[row].answer[place]] = 3.0
    problem = parse({}, "spelling", data.labels)
    assert task("spelling").metrics(logits, encoded, problem)["f1"] == 0
    found = task("spelling").tuned(logits, encoded, problem)
    assert 2 < found.tuned["keep"] < 5
    assert task("spelling").metrics(logits, encoded, found)["f1"] == 1
    fixed = parse({"keep": 0.5}, "spelling", data.labels)
    assert task("spelling").tuned(logits, encoded, fixed) == fixed


def test_rows_that_cannot_be_used_are_named_or_counted_and_other_edits_are_said(write: Any, tmp_path: Path) -> None:
    rows = [{"input": "teh cat", "target": "the cat"}, {"input": " ", "target": "x"}]
    with pytest.raises(UserError, match="line 2: input is blank"):
        load(DataConfig(path=str(write("train.jsonl", rows))), "spelling")
    write("validation.jsonl", [{"input": "a dgo", "target": "a dog"}])
    data = load(DataConfig(path=str(tmp_path), skip_bad=True), "spelling")
    assert any("1 of 2 examples" in note for note in data.notes)
    assert "1 words of validation need an edit that train has not, and count as missed" in data.notes
    assert data.labels == (KEEP, "0$ eh→he")
    assert read_texts(write("ask.jsonl", [{"input": "teh", "id": 4}]), task="spelling")[0].id == "4"
    with pytest.raises(UserError, match=r"no word of .* is changed"):
        load(DataConfig(path=str(write("same.jsonl", [{"input": "a b", "target": "a b"}]))), "spelling")


def test_single_words_of_a_real_list_are_found_by_their_columns(shared: Any) -> None:
    data = load(DataConfig(path=shared("codespell_words")), "spelling", splits=("train", "test"))
    assert (data.splits["test"][0].text, data.splits["test"][0].meta["right"]) == ("homapages", ["homepages"])


def test_the_real_corpus_of_misspellings_is_read_whole(shared: Any) -> None:
    data = load(DataConfig(path=shared("ewt_spelling")), "spelling")
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [921, 177, 149]
    for examples in data.splits.values():
        for example in examples:
            words = [example.text[start:end] for start, end in example.words or ()]
            again = [edited(word, edit(word, right)) for word, right in zip(words, example.meta["right"], strict=True)]
            assert again == list(example.meta["right"])
