"""An adapter's folder: `adapter_config.json`, `adapter_model.safetensors` and our `graftlm.json`.

Where PEFT can say it, the first two are in PEFT's own format; otherwise they hold our names. Loading is strict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.files import new_folder, read_json, write_bytes, write_json, write_text
from graftlm.methods import PeftForm

CONFIG, WEIGHTS, OURS = "adapter_config.json", "adapter_model.safetensors", "graftlm.json"
README, PICKLED = "README.md", "adapter_model.bin"
VERSION = 3


@dataclass(frozen=True)
class Card:
    """What `graftlm.json` holds: all that reproduces the predictions beside base and tensors.

    `options` are the task's own, `tuned` the numbers that it found on validation.
    """

    task: str
    labels: tuple[str, ...]
    pair: bool
    method: Mapping[str, Any]
    head: Mapping[str, Any]
    model: str
    fingerprint: str
    max_length: int
    seed: int
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    layout: Literal["peft", "graftlm"] = "graftlm"
    version: int = VERSION


def save_adapter(folder: Path, card: Card, tensors: Mapping[str, Tensor], peft: PeftForm | None) -> None:
    """Writes the folder whole, then renames it into place."""
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise UserError(f"tensor {empty[0]} has no elements (a sharded model that was not gathered?); nothing is saved")
    ours = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    own = peft.write(ours) if peft is not None else ours
    config = peft.body if peft is not None else {"peft_type": "GRAFTLM", "method": dict(card.method)}
    with new_folder(folder) as temporary:
        write_json(temporary / OURS, {**vars(card), "layout": "peft" if peft else "graftlm"})
        _write(temporary, config, own)


def save_peft(folder: Path, form: PeftForm, tensors: Mapping[str, Tensor], readme: str) -> None:
    """Writes a folder for PEFT alone, whole."""
    own = form.write({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    with new_folder(folder) as temporary:
        write_text(temporary / README, readme)
        _write(temporary, form.body, own)


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_json(folder / CONFIG, config)
    write_bytes(folder / WEIGHTS, lambda path: save_file(whole, path, metadata={"format": "pt"}))


def load_peft(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A PEFT folder's config and its tensors by PEFT's names."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; an adapter of PEFT's is one with {CONFIG} and {WEIGHTS}")
    body = read_json(folder / CONFIG, "PEFT config")
    if not isinstance(body, dict):
        raise UserError(f"{folder / CONFIG} does not hold a config but {type(body).__name__}")
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise UserError(
            f"{folder / PICKLED} is a pickle, which could run code, and is not read; load it in PEFT where you trust "
            f"it, and save_pretrained there writes {WEIGHTS}"
        )
    return body, _stored(folder / WEIGHTS)


def adapter_folder(run: Path) -> Path:
    """The adapter of a run's folder, or the folder itself if it is an adapter's."""
    for folder in (run / "adapter", run):
        if (folder / OURS).exists():
            return folder
    if not run.exists():
        near = (
            [path for path in run.parent.iterdir() if (path / "adapter" / OURS).exists()] if run.parent.is_dir() else []
        )
        raise UserError(f"no run at {run}" + (f"; there is {', '.join(sorted(map(str, near))[:5])}" if near else ""))
    raise UserError(f"{run} holds no finished run: {run / 'adapter' / OURS} is missing")


def load_card(run: Path) -> Card:
    """What a run's `graftlm.json` says."""
    path = adapter_folder(run) / OURS
    body = read_json(path, "adapter card")
    version = body.get("version") if isinstance(body, dict) else None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}; this graftlm reads {VERSION}")
    names = set(Card.__dataclass_fields__)
    wrong = sorted(names ^ body.keys())
    if wrong:
        raise UserError(f"{path} does not fit: {wrong[0]} is {'missing' if wrong[0] in names else 'unknown'}")
    return Card(**{**body, "labels": tuple(body["labels"])})


def load_tensors(run: Path, card: Card, peft: PeftForm | None = None) -> dict[str, Tensor]:
    """A run's tensors under our names. A run in PEFT's layout needs its form, which its method and model give."""
    stored = _stored(adapter_folder(run) / WEIGHTS)
    if card.layout != "peft":
        return stored
    assert peft is not None, "a run in PEFT's layout is read by its form"
    return peft.read(stored)


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
