"""Files and `datasets` names to rows: JSONL, CSV, Parquet; a folder of splits, one file, or a hub name."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graftlm.core.errors import UserError, unknown
from graftlm.core.settings import DataConfig

Row = Mapping[str, Any]
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPELLINGS = {"validation": ("validation", "valid", "dev", "val"), "train": ("train",), "test": ("test",)}
SPLIT_SEED = 0


def read_splits(config: DataConfig, wanted: Collection[str]) -> dict[str, tuple[list[Row], list[str] | None]]:
    """Each wanted split that there is: its rows, and the class names that a `datasets` feature gives, if it does."""
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _folder(path, wanted)
    if path.is_file():
        return {name: (rows, None) for name, rows in _one_file(path, config).items() if name in wanted}
    if path.suffix in READERS or config.path.startswith((".", "/", "~")) or path.parent.is_dir() and path.parent != Path():
        siblings = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise unknown("data", config.path, siblings)
    return _hub(config.path, wanted)


def read_file(path: Path) -> list[Row]:
    """A file's rows; an unreadable one is an error that names the line where there is one."""
    if path.suffix not in READERS:
        raise UserError(f"{path} is of no known kind; there is {', '.join(READERS)}")
    if not path.exists():
        near = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise unknown("file", str(path), near)
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    _check_text(path)
    reader = {"json": Dataset.from_json, "csv": Dataset.from_csv, "parquet": Dataset.from_parquet}[READERS[path.suffix]]
    try:
        rows = list(reader(str(path), keep_in_memory=True))
    except Exception as error:  # datasets raises whatever its parsers do
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows  # pyright: ignore[reportReturnType]


def _check_text(path: Path) -> None:
    """Names the line of a JSONL file that is not an object, and a file that is not UTF-8."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    if path.suffix == ".parquet":
        return
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 (the number is for the error)
                if path.suffix == ".jsonl" and line.strip():
                    value = json.loads(line)
                    if not isinstance(value, dict):
                        raise UserError(f"{path} line {number}: not a JSON object, but {type(value).__name__}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} after line {number}: not UTF-8 ({error.reason})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} line {number}: not JSON ({_reason(error)})") from None


def _folder(path: Path, wanted: Collection[str]) -> dict[str, tuple[list[Row], list[str] | None]]:
    found: dict[str, Path] = {}
    for split, names in SPELLINGS.items():
        files = [path / f"{name}{suffix}" for name in names for suffix in READERS]
        there = [file for file in files if file.exists()]
        if there:
            found[split] = there[0]
    others = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in READERS}
    found = {**{name: file for name, file in others.items() if file not in found.values()}, **found}
    if not found:
        raise UserError(f"{path} holds no train, validation or test file ({', '.join(READERS)})")
    return {split: (read_file(found[split]), None) for split in wanted if split in found}


def _one_file(path: Path, config: DataConfig) -> dict[str, list[Row]]:
    """One file cut into fractions; without fractions it is every split that is asked for but validation."""
    rows = read_file(path)
    if not config.split:
        return {"train": rows, "test": rows}
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    parts: dict[str, list[Row]] = {}
    start = 0.0
    for name, fraction in config.split.items():
        first, last = round(start * len(rows)), round((start + fraction) * len(rows))
        parts[name] = [rows[index] for index in order[first:last]]
        if not parts[name]:
            raise UserError(f"split {name} = {fraction} of {len(rows)} rows leaves none")
        start += fraction
    return parts


def _hub(name: str, wanted: Collection[str]) -> dict[str, tuple[list[Row], list[str] | None]]:
    from datasets import load_dataset

    try:
        loaded: Any = load_dataset(name)
    except Exception as error:  # a hub name fails in many ways, all of them the user's to mend
        raise UserError(f'no data at "{name}": no such file or folder, and no dataset of that name ({_reason(error)})') from None
    found: dict[str, tuple[list[Row], list[str] | None]] = {}
    for split, names in SPELLINGS.items():
        for spelling in names:
            if spelling in loaded and split in wanted and split not in found:
                part = loaded[spelling]
                classes = [feature.names for feature in part.features.values() if hasattr(feature, "names")]
                found[split] = (list(part), classes[0] if classes else None)
    return found


def numbered(rows: Iterable[Row], split: str) -> Iterable[tuple[str, Row]]:
    """Rows with the words that name each in an error."""
    return ((f"{split} row {number}", row) for number, row in enumerate(rows, 1))


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)[:200]
