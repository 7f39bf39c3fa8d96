"""Files of an adapter with bytes flipped, cut, doubled or put in: refused every time, or the very same answer."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm import UserError
from sealing import reseal

TEXTS = ("a good day", "the day is sad :)", "")
ADAPTER = Path("run/adapter")
FILES = ("adapter_config.json", "adapter_model.safetensors", "graftlm.json")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    1 << 70,
    0.5,
    -1e308,
    "",
    "x",
    "\0",
    "../..",
    [],
    [0],
    {},
    {"name": 1},
    [[]],
)
WAYS = ("flip", "flip", "flip", "bit", "cut", "drop", "double", "put", "zero", "tail")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one thing done to it."""
    way, size = draw.choice(WAYS), len(content)
    start = draw.randrange(size)
    stop = min(size, start + draw.choice((1, 2, 8, 64)))
    changed = bytearray(content)
    if way == "flip":
        changed[start] ^= draw.randrange(1, 256)
    elif way == "bit":
        changed[start] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del changed[start:]
    elif way == "drop":
        del changed[start:stop]
    elif way == "double":
        changed[stop:stop] = changed[start:stop]
    elif way == "put":
        changed[start:start] = draw.randbytes(stop - start)
    elif way == "zero":
        changed[start:stop] = bytes(stop - start)
    else:
        changed += draw.randbytes(stop - start)
    return bytes(changed)


def replaced(body: Any, draw: random.Random) -> Any:
    """A JSON value with one part of it replaced, taken out or named anew."""
    changed = copy.deepcopy(body)
    places = list(_places(changed))
    holder, key = draw.choice(places)
    way = draw.choice(("replace", "replace", "replace", "drop", "name"))
    if way == "drop":
        del holder[key]
    elif way == "name" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = draw.choice(VALUES)
    return changed


def _places(body: Any) -> Iterator[tuple[Any, Any]]:
    for key in body if isinstance(body, dict) else range(len(body)):
        yield body, key
        if isinstance(body[key], dict | list):
            yield from _places(body[key])


def answers(run: str = "run") -> list[dict[str, Any]] | None:
    with suppress(UserError):
        return graftlm.load(run).predict(TEXTS)
    return None


def loader_is_sound(count: int, seed: int) -> int:
    """Mutates one file at a time, and gives how many mutations were refused."""
    draw = random.Random(seed)
    expected = answers()
    assert expected is not None
    refused = 0
    for number in range(count):
        path = ADAPTER / draw.choice(FILES)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, draw))
        found = answers() if path.read_bytes() != whole else expected
        assert found is None or found == expected, f"mutation {number} of {path.name}, seed {seed}"
        refused += found is None
        path.write_bytes(whole)
    return refused


def sealed_cards_do_no_harm(count: int, seed: int) -> None:
    """Cards of nonsense whose checksums fit: a refusal, or answers of a run."""
    draw = random.Random(seed)
    path = ADAPTER / "graftlm.json"
    whole = path.read_text()
    for _ in range(count):
        path.write_text(json.dumps(replaced({**json.loads(whole), "checksums": {}}, draw)))
        reseal(ADAPTER)
        found = answers()
        assert found is None or len(found) == len(TEXTS)
    path.write_text(whole)


def import_is_sound(count: int, seed: int) -> None:
    """PEFT's folders hold no checksums: a refusal that leaves nothing, or a run that answers or says why not."""
    draw = random.Random(seed)
    theirs, out = Path("theirs"), Path("out")
    shutil.copytree(ADAPTER, theirs)
    (theirs / "graftlm.json").unlink()
    for number in range(count):
        path = theirs / draw.choice(FILES[:2])
        whole = path.read_bytes()
        structured = path.suffix == ".json" and number % 2
        path.write_bytes(json.dumps(replaced(json.loads(whole), draw)).encode() if structured else mutated(whole, draw))
        try:
            graftlm.import_peft(theirs, out)
        except UserError:
            assert not out.exists()
        else:
            answers("out")
            shutil.rmtree(out)
        path.write_bytes(whole)


FUZZES: list[tuple[Callable[[int, int], object], int]] = [
    (loader_is_sound, 200),
    (sealed_cards_do_no_harm, 60),
    (import_is_sound, 60),
]


@pytest.mark.parametrize(("fuzz", "count"), FUZZES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_mutated_file_is_refused_or_changes_no_answer(fuzz: Callable[[int, int], object], count: int) -> None:
    fuzz(count, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_ten_thousand_mutated_files(seed: int) -> None:
    assert loader_is_sound(2500, seed) > 2000


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", [sealed_cards_do_no_harm, import_is_sound])
def test_a_thousand_made_up_files(fuzz: Callable[[int, int], object]) -> None:
    fuzz(1000, 1)
