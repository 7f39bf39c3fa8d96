"""`history.jsonl`: a line a step or evaluation, each written whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.core.errors import Unwritable
from graftlm.core.files import writing


class History:
    """Appends lines while a run goes on, each with one `write` call, so that a reader never sees half of one.

    `size`: the bytes of an earlier history that stay; what comes after them is cut off.
    """

    def __init__(self, path: Path, size: int = 0):
        self.path = path
        with writing(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = min(size, os.fstat(self._handle).st_size)
            os.ftruncate(self._handle, self.size)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def write(self, row: Mapping[str, Any]) -> None:
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with writing(self.path):
            try:
                written = os.write(self._handle, line)
            except OSError:
                os.ftruncate(self._handle, self.size)
                raise
            if written < len(line):
                os.ftruncate(self._handle, self.size)
                raise Unwritable(self.path, "no space for another line")
        self.size += written

    def sync(self) -> int:
        """Brings all lines to the disk, and gives their bytes."""
        with writing(self.path):
            os.fsync(self._handle)
        return self.size
