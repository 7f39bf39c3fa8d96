"""A tiny model and its data on disk, and commands that can be killed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import folders
import tiny
from reliability.commands import Commands


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C counts, though a shell has its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, a random BERT, and `data`, its train and validation splits."""
    folder = tmp_path_factory.mktemp("world")
    folders.saved(tiny.model("bert"), folder / "model")
    (folder / "data").mkdir()
    rows = folders.rows(40)
    folders.write(folder / "data/train.jsonl", rows[:28])
    folders.write(folder / "data/validation.jsonl", rows[28:])
    return folder


@pytest.fixture(scope="session")
def commands(world: Path) -> Iterator[Commands]:
    made = Commands(world / "model")
    yield made
    made.close()
