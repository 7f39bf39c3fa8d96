"""Real data where the checkout has them, and small files of the tests' own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], str]:
    """The folder of a real data set; skips the test where it is not there."""

    def folder(name: str) -> str:
        if not (DATA / name).is_dir():
            pytest.skip(f"no data set {name} in {DATA}")
        return str(DATA / name)

    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes a file under the test's folder: text as it is, rows as JSON lines."""

    def file(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(text, encoding="utf-8")
        return path

    return file


@pytest.fixture
def folder(write: Callable[[str, Any], Path]) -> Callable[..., str]:
    """A folder of splits, given as `train=[…], validation=[…]`."""

    def made(**splits: Any) -> str:
        files = [write(f"data/{name}.jsonl", rows) for name, rows in splits.items()]
        return str(files[0].parent)

    return made
