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
from graftlm.core.files import new_folder, read_json, write_bytes, write_json

CONFIG, WEIGHTS, OURS = "adapter_config.json", "adapter_model.safetensors", "graftlm.json"
VERSION = 1


@dataclass(frozen=True)
class PeftForm:
    """An adapter in PEFT's words: its config, and PEFT's key for each of our tensor names."""

    config: Mapping[str, Any]
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """What `graftlm.json` holds: all that reproduces the predictions beside base and tensors."""

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
    metrics: Mapping[str, float] = field(default_factory=dict)
    layout: Literal["peft", "graftlm"] = "graftlm"
    keys: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION


def save_adapter(folder: Path, card: Card, tensors: Mapping[str, Tensor], peft: PeftForm | None) -> None:
    """Writes the folder whole, then renames it into place."""
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise UserError(f"tensor {empty[0]} has no elements (a sharded model that was not gathered?); nothing is saved")
    keys = peft.keys if peft is not None else {name: name for name in tensors}
    own = {keys[name]: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    config = peft.config if peft is not None else {"peft_type": "GRAFTLM", "method": dict(card.method)}
    body = {**vars(card), "layout": "peft" if peft else "graftlm", "keys": dict(keys) if peft else {}}
    with new_folder(folder) as temporary:
        write_json(temporary / CONFIG, config)
        write_json(temporary / OURS, body)
        write_bytes(temporary / WEIGHTS, lambda path: save_file(own, path, metadata={"format": "pt"}))


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


def load_tensors(run: Path, card: Card) -> dict[str, Tensor]:
    """A run's tensors under our names, whatever the layout."""
    path = adapter_folder(run) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    if card.layout != "peft":
        return stored
    ours = {theirs: name for name, theirs in card.keys.items()}
    unexpected = sorted(stored.keys() - ours.keys())
    if unexpected:
        raise UserError(f"{path} holds {len(unexpected)} tensors that its card does not name (first: {unexpected[0]})")
    return {ours[key]: tensor for key, tensor in stored.items()}
