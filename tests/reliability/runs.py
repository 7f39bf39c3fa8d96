"""Runs to be interrupted: their options, in Python and on the command line, and what must be the same in the end."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny
from graftlm.core.reporter import Progress, Silent

TRAINING: Mapping[str, Any] = {
    "max_steps": 12,
    "batch_size": 3,
    "accumulation": 2,
    "eval_steps": 2,
    "patience": 4,
    "learning_rate": 5e-3,
    "log_steps": 3,
    "weight_decay": 0.01,
    "save_steps": 1,
    "metric": "loss",
}
DROPOUT = ("lora", "adapter", "prefix", "ptuning-v2")


class Killed(BaseException):
    """Ends a run as a kill would, as far as one process can do that to itself."""


class Killing(Silent):
    """Kills the run after some steps."""

    def __init__(self, steps: int):
        self.steps = steps

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "steps") -> Iterator[Progress]:
        if title != "fit":
            with super().progress(title, total, unit) as other:
                yield other
            return
        yield self  # type: ignore[misc]

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise Killed


def options(world: Path, method: str, out: Path, **training: Any) -> dict[str, Any]:
    """For `graftlm.fit`: a method of tests/tiny.py, with its dropout where it has one, and the head's."""
    config = tiny.METHODS[method]
    values = {"name": config.method, **config.model_dump(mode="json")}
    if config.method in DROPOUT:
        values["dropout"] = 0.2
    return {
        "model": str(world / "model"),
        "data": str(world / "data"),
        "method": values,
        "out": out,
        "training": {**TRAINING, **training},
        "head": {"dropout": 0.1},
        "seed": 3,
    }


def command(world: Path, method: str, out: Path, **training: Any) -> list[str]:
    """The same for `graftlm fit`."""
    values = options(world, method, out, **training)
    body = {**values, "out": str(out), "data": {"path": values["data"]}}
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(body))
    return ["fit", str(file), "--quiet"]


def left(out: Path) -> dict[str, Any]:
    """What a run leaves that does not depend on the time that it took."""
    record = json.loads((out / "run.json").read_text())
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return {
        "weights": (out / "adapter/adapter_model.safetensors").read_bytes(),
        "card": (out / "adapter/graftlm.json").read_text(),
        "metrics": (out / "metrics.json").read_text(),
        "history": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
        "ended": [record[name] for name in ("state", "steps", "best_step", "stopped")],
        "files": sorted(path.name for path in out.iterdir()),
    }
