"""A mistake as data: what stands in the working folder, the command, and what it must say."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = {"model": "model", "data": "data", "method": "lora", "out": "out"}
Content = str | bytes | Sequence[Mapping[str, Any]]
Change = Callable[[], object]
Call = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Case:
    """`files` are written before the command runs, then `change` is called, in a folder with "model", "data", "run"."""

    name: str
    command: str
    said: str
    files: Mapping[str, Content] = field(default_factory=dict)
    change: Change | None = None


def fit(more: str = "", **flags: str | None) -> str:
    """The command that would train on the folder's own model and data, with some flags changed or left out."""
    given = FLAGS | flags
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    return shlex.join(["fit", *words]) + f" {more}"


def write(files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else lines(content), encoding="utf-8", newline="")


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(case: Case, call: Call) -> None:
    """Exit code 2, one line that says what it must, no traceback, and every file as it was."""
    prepare(case)
    before = listing(Path())
    found, out, err = call(*shlex.split(case.command))
    said = err.splitlines()[-1]
    assert (found, out) == (2, ""), err
    assert said.startswith("error: ")
    assert case.said in said, said
    assert "Traceback" not in err
    assert listing(Path()) == before


def prepare(case: Case) -> None:
    write(case.files)
    if case.change is not None:
        case.change()


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder, and what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        small = path.is_file() and path.stat().st_size < 1 << 20
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
    return found
