"""Token ids kept on disk, so that a large data set is tokenised once: `~/.cache/graftlm/features`, safe to delete.

A file's name is a hash of the texts, the tokenizer and the length, so that no entry is ever out of date.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graftlm.core.errors import Unwritable
from graftlm.core.example import Example
from graftlm.core.files import write_bytes
from graftlm.tasks import Features, encode

FEWEST = 2000  # examples that are worth a file: fewer are tokenised in about the time that it takes to read one
MOST_BYTES = 1 << 30


def default_folder() -> Path:
    """Where features are kept."""
    return Path.home() / ".cache" / "graftlm" / "features"


def encoded(
    examples: Sequence[Example], tokenizer: Any, max_length: int, folder: Path | None
) -> tuple[list[Features], int]:
    """What `tasks.encode` gives, from `folder` if it is there; None keeps nothing.

    A folder that cannot be read or written costs the time to tokenise, nothing else.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if folder is None or backend is None or len(examples) < FEWEST:
        return encode(examples, tokenizer, max_length)
    file = folder / f"{_key(examples, tokenizer, backend, max_length)}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):
        return _read(file)
    features, cut = encode(examples, tokenizer, max_length)
    with suppress(OSError, Unwritable):
        folder.mkdir(parents=True, exist_ok=True)
        _write(file, features, cut)
        _prune(folder)
    return features, cut


def _key(examples: Sequence[Example], tokenizer: Any, backend: Any, max_length: int) -> str:
    names = [version("tokenizers"), type(tokenizer).__name__, *tokenizer.model_input_names, str(tokenizer.eos_token_id)]
    digest = hashlib.sha256(repr((names, tokenizer.truncation_side, max_length)).encode())
    backend.no_truncation()  # what the last call left set is no part of the tokenizer; each call sets its own
    backend.no_padding()
    digest.update(backend.to_str().encode())
    for example in examples:
        digest.update(repr((example.text, example.text_pair)).encode())
    return digest.hexdigest()[:40]


def _read(file: Path) -> tuple[list[Features], int]:
    stored = load_file(file)
    lengths, ids = stored["lengths"].tolist(), stored["ids"].tolist()
    types = stored["types"].tolist() if "types" in stored else None
    features, start = [], 0
    for length in lengths:
        stop = start + length
        features.append(Features(ids[start:stop], None if types is None else types[start:stop]))
        start = stop
    file.touch()  # the files that were not used for longest go first
    return features, int(stored["cut"])


def _write(file: Path, features: Sequence[Features], cut: int) -> None:
    tensors = {
        "lengths": torch.tensor([len(row.ids) for row in features], dtype=torch.int32),
        "ids": torch.tensor([token for row in features for token in row.ids], dtype=torch.int32),
        "cut": torch.tensor(cut),
    }
    if features[0].types is not None:
        kinds = [kind for row in features for kind in row.types or ()]
        tensors["types"] = torch.tensor(kinds, dtype=torch.uint8)
    write_bytes(file, lambda path: save_file(tensors, path))


def _prune(folder: Path) -> None:
    """Deletes what was not used for longest, until the rest fits."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MOST_BYTES:
            file.unlink(missing_ok=True)
