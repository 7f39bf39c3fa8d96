"""Runs of a benchmark as lines of a file: one that is there is not run again."""

import json
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from graftlm.core.errors import UserError
from graftlm.core.files import write_jsonl

Row = dict[str, Any]


class Rows:
    """The measured runs in a file, those of other settings included; `mine` are those of this benchmark's.

    `measure` gives a job's row, in a process of its own. `how` are settings that it is told too and that change nothing
    but rounding and speed, so that a row with others counts as well.
    """

    def __init__(self, path: Path, settings: Row, measure: Callable[[Row], Row], how: Row | None = None):
        self.path, self.settings, self.measure, self.how, self.failed = path, settings, measure, how or {}, 0
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
        print(f"{job['set']} {job['label']} at {job['rate']:g}, seed {job['seed']}", end=": ", flush=True)
        try:
            told = {**job, **self.how, "folder": str(folder), "model_path": model}
            row = {"job": job, **self.how, **apart(self.measure, told)}
        except Exception as error:  # of any kind, in that process or of it
            self.failed += 1
            print(f"failed: {error!r}\n{error.__cause__ or ''}", flush=True)
            return None
        self.all.append(row)
        write_jsonl(self.path, self.all)
        print(row.get("refused") or f"validation {row['validation']:.4f}, {row['seconds']:.0f} s", flush=True)
        return row


def apart(measure: Callable[[Row], Row], job: Row) -> Row:
    """A job's row, from a process of its own, which a server forks that has imported graftlm before."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["graftlm.api", "graftlm.cli"])
    with ProcessPoolExecutor(1, processes) as one:
        return one.submit(measure, job).result()


def quicker() -> str:
    """The precision that products with MiniLM's weights are quicker in on this processor."""
    import torch

    from graftlm.kernels import current

    return "bf16" if current().precision(torch.zeros(384, 384)) == "bfloat16" else "fp32"


def processor() -> str:
    """The processor's name and the threads that ran on it."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def spread(scores: Sequence[float]) -> str:
    """Mean ± standard deviation, where there is one."""
    deviation = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.3f}{deviation}"


def counted(scores: Sequence[float]) -> str:
    """The same and of how many it is; nothing of none."""
    return f"{spread(scores)} ({len(scores)})" if scores else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ended(main: Callable[[], int]) -> NoReturn:
    """Runs a benchmark and ends with its code, or with 2 and a line for a mistake of its user's."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
