"""A run under way on disk: `checkpoint-N/` written whole, and `checkpoint.json`, which names the one that counts.

The pointer is renamed into place after the folder, so that a kill at any moment leaves the old or the new state.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from graftlm.checkpoint._adapter import stored
from graftlm.core.errors import UserError
from graftlm.core.files import file_hash, new_folder, read_json, remove, write_bytes, write_json

POINTER, TENSORS, VALUES = "checkpoint.json", "state.safetensors", "state.json"
NAME = re.compile(r"checkpoint-(\d+)")
VERSION = 2


def save_state(run: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any], keep: int = 1) -> None:
    """Saves the state of a run after `step`, and leaves the `keep` newest states, this one among them.

    Raises `Unwritable`, with the state before this one as it was.
    """
    folder = run / f"checkpoint-{step}"
    with new_folder(folder, parents=False) as temporary:
        write_bytes(temporary / TENSORS, lambda path: save_file(_own(tensors), path))
        write_json(temporary / VALUES, {"version": VERSION, "step": step, **values})
    write_json(run / POINTER, {"checkpoint": folder.name, "sha256": _hashes(folder)})
    _prune(run, step, max(keep, 1))


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and values that were saved last; None where nothing was. Raises UserError where they are damaged."""
    if not (run / POINTER).exists():
        return None
    pointer = read_json(run / POINTER, "pointer to a checkpoint")
    name = pointer.get("checkpoint") if isinstance(pointer, dict) else None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{run / POINTER} does not name a checkpoint; {_advice(run)}")
    try:
        whole = _hashes(run / name) == pointer.get("sha256")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {str(error.strerror).lower()}; {_advice(run)}") from None
    if not whole:
        raise UserError(f"{run / name} is damaged: its files are not those that were written; {_advice(run)}")
    values = read_json(run / name / VALUES, "checkpoint")
    tensors = {key: tensor.clone() for key, tensor in stored(run / name / TENSORS).items()}  # no longer the file's
    if values["version"] != VERSION:
        raise UserError(f"{run / name} is not of version {VERSION}, which this graftlm reads; {_advice(run)}")
    return tensors, values


def drop_states(run: Path, keep: int = 0) -> None:
    """Removes the states of a run but for the `keep` newest; the pointer goes with the last."""
    if keep == 0:
        remove(run / POINTER)
    for _, folder in _states(run)[keep:]:
        remove(folder)


def drop_later(run: Path, step: int) -> None:
    """Removes states that no pointer was set to, for a run that goes on from `step`."""
    for number, folder in _states(run):
        if number > step:
            remove(folder)


def _prune(run: Path, step: int, keep: int) -> None:
    for _, folder in [state for state in _states(run) if state[0] <= step][keep:]:
        remove(folder)


def _states(run: Path) -> list[tuple[int, Path]]:
    """Steps and folders, newest first."""
    found = [(NAME.fullmatch(path.name), path) for path in run.glob("checkpoint-*") if path.is_dir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: a part of a larger tensor is copied."""
    moved = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {
        name: tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        for name, tensor in moved.items()
    }


def _hashes(folder: Path) -> dict[str, str]:
    return {name: file_hash(folder / name) for name in (TENSORS, VALUES)}


def _advice(run: Path) -> str:
    return f"without {run / POINTER} the run starts from the beginning"
