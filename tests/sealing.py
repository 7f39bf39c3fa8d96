"""An adapter's folder changed by hand, with checksums that fit the change."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from graftlm.checkpoint._card import OURS, SUMS, WEIGHTS, sealed

Tensors = dict[str, torch.Tensor]


def reseal(folder: Path) -> None:
    body = json.loads((folder / OURS).read_text())
    body.pop(SUMS, None)
    (folder / OURS).write_text(json.dumps(sealed(folder, body)))


def change_card(folder: Path, changes: Mapping[str, Any]) -> None:
    body = json.loads((folder / OURS).read_text())
    (folder / OURS).write_text(json.dumps(body | dict(changes)))
    reseal(folder)


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    reseal(folder)
