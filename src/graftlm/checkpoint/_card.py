"""`graftlm.json`: all that reproduces a run's predictions beside base and tensors, and checksums of its folder's files.

`model` alone is not part of the file's own checksum: it may be changed by hand where a base has moved, for the base's
fingerprint says whether it is the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, field_validator
from typing_extensions import TypedDict

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.files import file_hash, read_json
from graftlm.core.settings import Name, PromptConfig

CONFIG, WEIGHTS, OURS = "adapter_config.json", "adapter_model.safetensors", "graftlm.json"
VERSION = 3
SUMS = "checksums"
NOT_SUMMED = ("model", SUMS)


class Cut(TypedDict):
    """The fractions that a file was cut by, and the file's hash."""

    split: dict[str, float]
    file: str


class Trained(TypedDict, total=False):
    """What a later evaluation takes from the training's data unless it is told otherwise."""

    columns: dict[str, str]
    mark: tuple[str, str] | None
    cut: Cut | None
    cache: bool


class Card(Config):
    """What `graftlm.json` holds; `checksums` are those of the folder's three files, by name.

    `options` are the task's own, `tuned` the numbers that it found on validation. `prompt` is None under a head.
    """

    task: str
    labels: tuple[str, ...]
    pair: bool
    method: Mapping[str, Any]
    head: Mapping[str, Any]
    model: Name
    fingerprint: str
    max_length: PositiveInt
    seed: NonNegativeInt
    prompt: PromptConfig | None = None
    data: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    tuned: Mapping[str, float] = {}
    metrics: Mapping[str, float] = {}
    layout: Literal["peft", "graftlm"] = "graftlm"
    version: int = VERSION
    checksums: Mapping[str, str] = {}

    @field_validator("method")
    @classmethod
    def _named(cls, method: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(method.get("name"), str):
            raise ValueError("a method has a name")
        return method

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("labels differ from each other")
        return labels

    @field_validator("data")
    @classmethod
    def _typed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            TypeAdapter(Trained).validate_python(data)
        except ValidationError as error:
            raise ValueError(f"{'.'.join(map(str, error.errors()[0]['loc']))} is of another kind") from None
        return data


def sealed(folder: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    """A card's values with the checksums of itself and of the other files of its folder."""
    return {**body, SUMS: {**{name: file_hash(folder / name) for name in (CONFIG, WEIGHTS)}, OURS: _own_hash(body)}}


def load_card(run: Path) -> Card:
    """What a run's `graftlm.json` says; one that was changed since it was written is a UserError."""
    path = adapter_folder(run) / OURS
    body = read_json(path, "adapter card")
    version = body.get("version") if isinstance(body, dict) else None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}; this graftlm reads {VERSION}")
    try:
        card = Card.parse(body)
    except UserError as error:
        raise UserError(f"{path} does not fit: {error}") from None
    if card.checksums.keys() != {CONFIG, WEIGHTS, OURS}:
        raise UserError(f"{path} does not fit: {SUMS} are needed for {CONFIG}, {WEIGHTS} and {OURS}")
    _compare(path, card, _own_hash(body))
    return card


def check_files(run: Path, card: Card) -> None:
    """Refuses a run whose adapter's other files are not those that its card was written with."""
    for name in (CONFIG, WEIGHTS):
        path = adapter_folder(run) / name
        if not path.is_file():
            raise UserError(f"{path} is {'no file' if path.exists() else 'missing'}")
        try:
            found = file_hash(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        _compare(path, card, found)


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
    if not run.is_dir():
        raise UserError(f"{run} is a file; a run is a folder")
    if (run / CONFIG).exists():
        raise UserError(f"{run} is an adapter of PEFT's, not a run; graftlm import {run} --out RUN makes one of it")
    raise UserError(f"{run} holds no finished run: {run / 'adapter' / OURS} is missing")


def _compare(path: Path, card: Card, found: str) -> None:
    if card.checksums[path.name] != found:
        raise UserError(
            f"{path} is not as it was written: its checksum begins with {found[:12]}, and {OURS} has "
            f"{card.checksums[path.name][:12]}; copy the folder anew, or train again"
        )


def _own_hash(body: Mapping[str, Any]) -> str:
    summed = {name: value for name, value in body.items() if name not in NOT_SUMMED}
    return hashlib.sha256(json.dumps(summed, sort_keys=True).encode()).hexdigest()
