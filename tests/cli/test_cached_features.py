"""Token ids are kept on disk: the same as fresh ones, for these texts and tokenizer alone, never in the way."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from graftlm.core.example import Example
from graftlm.recipes import _cached
from graftlm.recipes._cached import encoded
from graftlm.tasks import encode

Command = Callable[..., tuple[int, str, str]]
TEXTS = [Example("the day is good"), Example("it is :) fine fine fine"), Example("")]
PAIRS = [Example("the day", "is good"), Example("it is", "bad bad bad bad bad bad")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cached, "FEWEST", 1)


@pytest.fixture
def tokenizer(model: str) -> Any:
    return AutoTokenizer.from_pretrained(model)


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each tokenisation saw."""
    seen: list[int] = []

    def counted(examples: list[Example], *rest: Any) -> Any:
        seen.append(len(examples))
        return encode(examples, *rest)

    monkeypatch.setattr(_cached, "encode", counted)
    return seen


@pytest.mark.parametrize("examples", [TEXTS, PAIRS])
@pytest.mark.parametrize("typed", [True, False])
def test_what_is_read_is_what_was_tokenised_once(
    examples: list[Example], typed: bool, tokenizer: Any, tokenised: list[int]
) -> None:
    if not typed:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    found = [encoded(examples, tokenizer, 8, Path("kept")) for _ in range(2)]
    assert found[0] == found[1] == encode(examples, tokenizer, 8)
    assert tokenised == [len(examples)]


def test_other_texts_lengths_and_tokenizers_are_tokenised_anew(tokenizer: Any, tokenised: list[int]) -> None:
    def count(examples: list[Example], length: int) -> int:
        encoded(examples, tokenizer, length, Path("kept"))
        return len(tokenised)

    assert count(TEXTS, 8) == 1
    assert count(TEXTS[::-1], 8) == 2
    assert count([Example("the day", "is good")], 8) == 3
    assert count([Example("the day is", "good")], 8) == 4
    assert count(TEXTS, 9) == 5
    tokenizer.add_tokens(["day is"])
    assert count(TEXTS, 8) == 6
    assert count(TEXTS, 8) == 6
    tokenizer.truncation_side = "left"
    assert count(TEXTS, 8) == 7


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_not_whole_is_written_anew(content: bytes, tokenizer: Any, tokenised: list[int]) -> None:
    wanted = encoded(TEXTS, tokenizer, 8, Path("kept"))
    [file] = Path("kept").iterdir()
    file.write_bytes(content)
    assert [encoded(TEXTS, tokenizer, 8, Path("kept")) for _ in range(2)] == [wanted, wanted]
    assert tokenised == [3, 3]


def test_a_place_that_cannot_be_written_is_no_error(tokenizer: Any) -> None:
    Path("kept").write_text("")
    assert encoded(TEXTS, tokenizer, 8, Path("kept")) == encode(TEXTS, tokenizer, 8)


def test_what_was_not_used_for_longest_goes_first(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, length in enumerate((8, 9)):
        encoded(TEXTS, tokenizer, length, Path("kept"))
        for file in Path("kept").iterdir():
            os.utime(file, (place, place))
    size = max(file.stat().st_size for file in Path("kept").iterdir())
    encoded(TEXTS, tokenizer, 8, Path("kept"))  # used again
    monkeypatch.setattr(_cached, "MOST_BYTES", 2 * size + size // 2)
    encoded(TEXTS, tokenizer, 10, Path("kept"))
    seen = {path.name for path in Path("kept").iterdir()}
    assert len(seen) == 2
    monkeypatch.setattr(_cached, "encode", lambda *_: pytest.fail("tokenised again"))
    for length in (8, 10):
        encoded(TEXTS, tokenizer, length, Path("kept"))


@pytest.mark.parametrize(("on", "files"), [("true", 3), ("false", 0)])
def test_a_run_keeps_its_splits_features_unless_it_is_told_not_to(
    on: str, files: int, graftlm: Command, model: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path("home").absolute()
    monkeypatch.setattr(Path, "home", lambda: home)
    flags = ("--model", model, "--data", data, "--method", "head", "-o", "training.max_steps=1", "--quiet")
    assert graftlm("fit", *flags, "--out", "out", "-o", f"data.cache={on}")[0] == 0
    assert graftlm("evaluate", "out", "--data", data, "--quiet")[0] == 0
    assert len(list(home.rglob("*.safetensors"))) == files  # train, validation and test
