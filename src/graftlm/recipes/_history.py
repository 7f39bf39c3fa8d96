"""`history.jsonl`: a line a step or evaluation, each written whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class History:
    """Appends lines while a run goes on, each with one `write` call, so that a reader never sees half of one."""

    def __init__(self, path: Path):
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._handle)
        os.close(self._handle)

    def write(self, row: Mapping[str, Any]) -> None:
        os.write(self._handle, (json.dumps(row, allow_nan=False) + "\n").encode())
