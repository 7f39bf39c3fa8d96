"""Files that a kill at any moment leaves old or new, never half: written under a temporary name, synced, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp
from typing import Any

from graftlm.core.errors import UserError

MOST_JSON = 64 << 20


def write_bytes(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then syncs it and renames it onto `path`."""
    handle, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """UTF-8 text with `\\n` line ends."""
    write_bytes(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN is refused, since other readers do not know it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line; NaN is refused."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path, what: str) -> Any:
    """JSON from a file of no more than 64 MiB; `what` names the file's purpose in an error."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file, so it is no {what}")
        if path.stat().st_size > MOST_JSON:
            raise UserError(f"{path} is larger than {MOST_JSON >> 20} MiB, which no {what} is")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable {what}: {error}") from None


def file_hash(path: Path) -> str:
    """A file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder written whole under a temporary name and renamed to `path` at the end; an older one is replaced."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; name a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        old = None
        if path.exists():
            old = Path(mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
        temporary.replace(path)
        _sync(path.parent)
        if old is not None:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    with suppress(OSError):  # a folder cannot be opened for syncing everywhere
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
