"""Runs of a benchmark as lines of a file: one that is there is not run again."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from graftlm.core.errors import UserError
from graftlm.core.files import write_jsonl

Row = dict[str, Any]


class Rows:
    """The measured runs in a file, those of other settings included; `mine` are those of this benchmark's."""

    def __init__(self, path: Path, settings: Row, script: Path):
        self.path, self.settings, self.script, self.failed = path, settings, script, 0
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.all: list[Row] = [json.loads(line) for line in text.splitlines()]

    def mine(self) -> list[Row]:
        return [row for row in self.all if {key: row["job"][key] for key in self.settings} == self.settings]

    def measured(self, job: Row, folder: Path, model: str = "") -> Row | None:
        """A run's row: from the file, or run now and written; None where it failed, so that it is tried again.

        What runs it is told the data's `folder`, and the `model_path` where one is given; a row knows neither.
        """
        job = json.loads(json.dumps(self.settings | job))
        for row in self.all:
            if row["job"] == job:
                return row
        said = f"{job['set']} {job['label']} at {job['rate']:g}, seed {job['seed']}"
        print(said, end=": ", flush=True)
        command = [
            sys.executable,
            str(self.script),
            "--one",
            json.dumps({**job, "folder": str(folder), "model_path": model}),
        ]
        quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
        if done.returncode:
            self.failed += 1
            print(f"failed with {done.returncode}\n{done.stderr[-2000:]}", flush=True)
            return None
        row = {"job": job, **json.loads(done.stdout.splitlines()[-1])}
        self.all.append(row)
        write_jsonl(self.path, self.all)
        print(row.get("refused") or f"validation {row['validation']:.4f}, {row['seconds']:.0f} s", flush=True)
        return row


def processor() -> str:
    """The processor's name and the threads that ran on it."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def ended(main: Callable[[], int]) -> NoReturn:
    """Runs a benchmark and ends with its code, or with 2 and a line for a mistake of its user's."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
