"""Files that a kill at any moment leaves old or new, never half: written under a temporary name, synced, renamed.

What cannot be written is an `Unwritable`, and leaves nothing behind but what was there before.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp
from typing import Any

from graftlm.core.errors import Unwritable, UserError

PARTIAL = ".partial"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong with the disk, in Python or in safetensors, into an `Unwritable` that names `path`."""
    try:
        yield
    except Unwritable as error:
        raise Unwritable(path, error.reason, error.number) from None
    except OSError as error:
        raise Unwritable(path, error.strerror or str(error), error.errno) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        number = re.search(r"\(os error (\d+)\)", str(error))
        reason = os.strerror(int(number[1])) if number else str(error)
        raise Unwritable(path, reason, int(number[1]) if number else None) from None


MOST_JSON = 64 << 20


def write_bytes(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then syncs it and renames it onto `path`."""
    with writing(path):
        handle, name = mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


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


def same_file(one: Path, other: Path) -> bool:
    """Whether both names are there and are of one file, as a link and what it leads to are."""
    return one.is_file() and other.exists() and one.samefile(other)


def file_hash(path: Path) -> str:
    """A file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def new_folder(path: Path, *, parents: bool = True) -> Iterator[Path]:
    """A folder written whole under a temporary name and renamed to `path` at the end; an older one is replaced.

    `parents`: whether the folders above it are made where they are missing.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; name a folder")
    with writing(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.iterdir():
                _sync(file)
            _sync_folder(temporary)
            old = None
            if path.exists():
                old = Path(mkdtemp(prefix=f".{path.name}.old.", suffix=PARTIAL, dir=path.parent))
                path.replace(old / path.name)
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what writes that were killed have left in a folder that nobody else writes to."""
    for path in folder.glob(f".*{PARTIAL}"):
        remove(path)


def remove(path: Path) -> None:
    """Removes a file or a folder with all in it, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # a folder cannot be opened for syncing everywhere
        _sync(path)
