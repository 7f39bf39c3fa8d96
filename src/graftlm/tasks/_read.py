"""Files to tables: JSON, CSV, Parquet, Arrow and `datasets` names, with the line of every row for errors.

JSON and CSV are read here and not by `datasets`, whose readers turn a column of dates into timestamps, whole numbers
beside fractions into fractions and the text "NA" into nothing, stop at a blank line, and do not know line numbers.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from graftlm.core.errors import UserError
from graftlm.core.hub import cache_only
from graftlm.tasks._lines import csv_lines, is_list, lines, whole
from graftlm.tasks._squad import flattened


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `where` and `lines` say where each row stands, `names` a column's class names."""

    where: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """Where a row stands, for the start of an error."""
        return f"{self.where} {self.unit} {self.lines[row]}"

    def take(self, rows: Sequence[int]) -> "Table":
        """Some of the rows, in the order given."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.where, columns, [self.lines[row] for row in rows], self.names, self.unit)


def read_file(path: Path) -> Table:
    """The table in one file; its suffix says how it is read. An empty or unreadable file is a UserError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise UserError(f'{path} ends in "{path.suffix}"; data files end in {known}')
    try:
        table = reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if not len(table):
        raise UserError(f"{path} holds no examples")
    return table


def _read_json(path: Path) -> Table:
    """One object a line (blank lines are skipped), one list of objects, or SQuAD's nested JSON."""
    if is_list(path):
        listed = _parsed(whole(path), str(path), path)
        rows = [_object(row, f"{path} item {place}") for place, row in enumerate(listed, 1)]
        return Table(str(path), _columns(rows), range(1, len(rows) + 1), unit="item")
    questions = _squad(path)
    if questions is not None:
        return Table(str(path), _columns(questions), range(1, len(questions) + 1), unit="question")
    rows, numbers = [], []
    for number, line in lines(path):
        if line.strip():
            at = f"{path} line {number}"
            rows.append(_object(_parsed(line, at, path), at))
            numbers.append(number)
    return Table(str(path), _columns(rows), numbers)


def _squad(path: Path) -> list[dict[str, Any]] | None:
    """The questions of a .json file in SQuAD's nested form; None for any other file."""
    if path.suffix.lower() != ".json":
        return None
    try:
        body = DECODER.decode(whole(path))
    except (ValueError, RecursionError, UserError):
        return None
    return flattened(body, str(path))


def _parsed(text: str, at: str, path: Path) -> Any:
    hint = "; a .json file holds a list of objects, or one object a line" if path.suffix.lower() == ".json" else ""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{at}: not JSON ({error.msg} at character {error.pos + 1}){hint}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{at}: not readable JSON ({error}){hint}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f'"{twice}" stands twice in one object')
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)  # json.loads would make one for each line


def _object(row: Any, at: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f'{at}: an example is an object such as {{"text": "…", "label": "…"}}, not {shown(row)}')
    return row


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_csv(path: Path) -> Table:
    """Comma-separated with a header; every cell is a string."""
    header: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    line = 1
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(csv_lines(path), strict=True)
        for row in reader:
            if row and not header:
                header = _header(row, path)
            elif row and len(row) != len(header):
                raise UserError(f"{path} line {line}: {len(row)} fields, but the header has {len(header)}")
            elif row:
                rows.append(row)
                numbers.append(line)
            line = reader.line_num + 1  # a quoted cell may hold line ends
    except csv.Error as error:
        raise UserError(f"{path} line {line}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(before)
    return Table(str(path), {name: [row[place] for row in rows] for place, name in enumerate(header)}, numbers)


def _header(row: Sequence[str], path: Path) -> list[str]:
    names = [name.strip() for name in row]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'{path} has two columns named "{twice}"')
    return names


def _read_parquet(path: Path) -> Table:
    from datasets import Dataset

    with _quiet(), TemporaryDirectory() as cache:
        try:
            dataset = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # what Arrow, fsspec and datasets raise has no common class
            raise UserError(f"{path} is not a readable Parquet file: {first_line(error)}") from None
        return table_of(dataset, str(path))


def _read_arrow(path: Path) -> Table:
    from datasets import Dataset

    with _quiet():
        try:
            return table_of(Dataset.from_file(str(path), in_memory=True), str(path))
        except Exception as error:  # as for Parquet
            raise UserError(f"{path} is not a readable Arrow file: {first_line(error)}") from None


READERS = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}


def read_saved(path: Path) -> Table:
    """One split in a folder that `datasets` saved it to."""
    from datasets import load_from_disk

    with _quiet():
        try:
            return table_of(load_from_disk(str(path), keep_in_memory=True), str(path))
        except Exception as error:  # as for Parquet
            raise UserError(f"{path} is not a dataset that can be read: {first_line(error)}") from None


def hub_splits(name: str, offline: bool) -> list[str]:
    """The splits of a `datasets` name, "owner/name" or "owner/name:configuration"; `offline` asks its cache alone."""
    from datasets import get_dataset_split_names

    with _quiet(), cache_only(offline):
        return list(get_dataset_split_names(*_hub_name(name)))


def read_hub(name: str, split: str, offline: bool) -> Table:
    """One split of a `datasets` name."""
    from datasets import load_dataset

    with _quiet(), cache_only(offline):
        return table_of(load_dataset(*_hub_name(name), split=split), f"{name} {split}")


def _hub_name(name: str) -> tuple[str, str | None]:
    path, colon, configuration = name.partition(":")
    return path, configuration if colon else None


def table_of(dataset: Any, where: str) -> Table:
    """The table in a `datasets.Dataset`; a column of ClassLabels, or of lists of them, keeps its class names."""
    from datasets import ClassLabel

    kinds = {name: getattr(kind, "feature", kind) for name, kind in dataset.features.items()}
    names = {name: kind.names for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    return Table(where, dataset[:], range(1, len(dataset) + 1), names, unit="row")


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and log lines of `datasets`: what it has to say comes back as an exception."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    bars, level = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or of its cause's where that says more."""
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text.splitlines()[0]


def shown(value: Any) -> str:
    """A value cut to the length that an error has room for."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"
