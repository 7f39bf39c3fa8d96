"""An adapter's folder: `adapter_config.json`, `adapter_model.safetensors` and our `graftlm.json`.

Where PEFT can say it, the first two are in PEFT's own format; otherwise they hold our names. Loading is strict, and
the third holds checksums of all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graftlm.checkpoint._card import CONFIG, OURS, WEIGHTS, Card, adapter_folder, sealed
from graftlm.core.errors import UserError
from graftlm.core.files import new_folder, read_json, write_bytes, write_json, write_text
from graftlm.methods import PeftForm, check_body

README, PICKLED = "README.md", "adapter_model.bin"


def save_adapter(folder: Path, card: Card, tensors: Mapping[str, Tensor], peft: PeftForm | None) -> None:
    """Writes the folder whole, then renames it into place."""
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise UserError(f"tensor {empty[0]} has no elements (a sharded model that was not gathered?); nothing is saved")
    ours = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    own = peft.write(ours) if peft is not None else ours
    config = peft.body if peft is not None else {"peft_type": "GRAFTLM", "method": dict(card.method)}
    with new_folder(folder) as temporary:
        _write(temporary, config, own)
        body = {**card.model_dump(mode="json", exclude={"checksums"}), "layout": "peft" if peft else "graftlm"}
        write_json(temporary / OURS, sealed(temporary, body))


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


def load_peft(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A PEFT folder's config and its tensors by PEFT's names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; an adapter of PEFT's is one with {CONFIG} and {WEIGHTS}")
    body = read_json(folder / CONFIG, "PEFT config")
    if not isinstance(body, dict):
        raise UserError(f"{folder / CONFIG} does not hold a config but {type(body).__name__}")
    check_body(body)
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise UserError(
            f"{folder / PICKLED} is a pickle, which could run code, and is not read; load it in PEFT where you trust "
            f"it, and save_pretrained there writes {WEIGHTS}"
        )
    return body, _weights(folder / WEIGHTS)


def load_tensors(run: Path, card: Card, peft: PeftForm | None = None) -> dict[str, Tensor]:
    """A run's tensors under our names. A run in PEFT's layout needs its form, which its method and model give."""
    found = _weights(adapter_folder(run) / WEIGHTS)
    if card.layout != "peft":
        return found
    assert peft is not None, "a run in PEFT's layout is read by its form"
    return peft.read(found)


def stored(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None


def _weights(path: Path) -> dict[str, Tensor]:
    tensors = stored(path)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {key} holds {tensor.dtype}, and weights are fractions")
        if tensor.numel() == 0:
            raise UserError(f"{path}: {key} has no elements (a sharded model that was not gathered?)")
    return tensors
