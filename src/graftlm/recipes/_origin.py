"""What a run was started on, as `run.json` keeps it: data, base, versions, machine; and what a resume finds changed."""

import hashlib
import importlib.metadata
import platform
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from graftlm.core.errors import UserError
from graftlm.core.reporter import Reporter
from graftlm.tasks import TaskData


def origin(data: TaskData, base: str, device: torch.device, kernels: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's record that a resume compares with what it finds, and the kernels that it takes over."""
    found = {"versions": versions(), "machine": machine(device), "base": base, "data": fingerprint(data)}
    return {**found, "kernels": dict(kernels)}


def versions() -> dict[str, str]:
    names = ("graftlm", "torch", "transformers", "accelerate")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def machine(device: torch.device) -> dict[str, Any]:
    """What decides how torch computes: the same numbers come out where all of it is the same."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": device.type, "kind": name, "threads": torch.get_num_threads()}


def fingerprint(data: TaskData) -> str:
    """A hash of all examples and labels in their order, wherever they stand."""
    digest = hashlib.sha256(repr((data.labels, data.pair)).encode())
    for split, examples in data.splits.items():
        digest.update(repr((split, len(examples))).encode())
        for example in examples:
            digest.update(repr(replace(example, at="")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def compare(out: Path, old: Mapping[str, Any], new: Mapping[str, Any], reporter: Reporter) -> None:
    """Refuses what would make the run another one, and warns of what may change its last bits."""
    check_same(out, old, new, "with --overwrite")
    for part in ("versions", "machine"):
        for name, value in new[part].items():
            if old[part].get(name) != value:
                reporter.warn(
                    f"{out} was started with {name} {old[part].get(name)}, here it is {value}; the result may differ "
                    "from that of a run that was never interrupted"
                )


def check_same(out: Path, old: Mapping[str, Any], new: Mapping[str, Any], anew: str) -> None:
    """Refuses to go on with `out` on another base or other data; `anew` says how to train afresh."""
    for part, what in (("base", "base model's weights or config"), ("data", "data")):
        if old[part] != new[part]:
            raise UserError(
                f"{out} was started on another state of the {what} than there is now; put it back as it was, or "
                f"train anew {anew}"
            )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """As many of torch's threads as a run was started with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory() -> int:
    """The most bytes that were in use: of a GPU's memory where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
