"""Rows to examples: columns by their usual names, labels with their names kept, every mistake named with its row."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.core.errors import UserError, unknown
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks._few_shot import few_shot
from graftlm.tasks._marks import marked
from graftlm.tasks._read import Row, numbered, read_file, read_splits

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXTS = ("text", "sentence", "content", "review", "tweet", "body", "question", "title")
LABELS = ("label", "labels", "target", "class", "category", "stars", "intent", "relation")
SCORES = ("score", "rating", "value", "similarity", "label", "target")
NAMES = ("label_text", "label_name", "label_names")
OURS = ("text", "text_pair", "label", "label_text", "score", "id")


@dataclass(frozen=True)
class TaskData:
    """A task's examples by split. `labels`: names by class index, empty for regression. `notes`: worth telling."""

    splits: Mapping[str, list[Example]]
    labels: tuple[str, ...]
    pair: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Which of a file's columns is what."""

    text: str
    text_pair: str | None
    label: str | None
    label_text: str | None
    score: str | None


def load(
    config: DataConfig, task: str, splits: Collection[str] = ("train", "validation"), labels: Sequence[str] | None = None
) -> TaskData:
    """The splits that are asked for, of which only validation may be missing.

    `labels` are a stored run's, which the data must keep to; without them they are found in train.
    """
    wanted = {"train"} if config.shots and "train" in splits else set(splits)
    read = read_splits(config, wanted)
    for name in wanted - {"validation"}:
        if name not in read:
            raise unknown("split", name, read or read_splits(config, SPLITS))
    first = next(iter(read.values()))
    columns = find_columns(first[0], config.columns, task, labelled=True)
    names = tuple(labels) if labels is not None else _label_names(read["train"], columns, task)
    made: dict[str, list[Example]] = {}
    for name, (rows, _) in read.items():
        rows = rows[: config.limit.get(name)]
        made[name] = [_example(row, columns, task, names, config, where) for where, row in numbered(rows, name)]
    if config.shots and "train" in made:
        made["train"], made["validation"] = few_shot(made["train"], config.shots, config.shots_seed, names)
    return TaskData(made, names, columns.text_pair is not None, (_note(columns, made, names),))


SPLITS = ("train", "validation", "test")


def read_texts(path: str | Path, columns: Mapping[str, str] | None = None, mark: tuple[str, str] | None = None) -> list[Example]:
    """The texts of a file to predict on; labels are not needed."""
    rows = read_file(Path(path))
    found = find_columns(rows, columns or {}, "classification", labelled=False)
    config = DataConfig(path=str(path), mark=mark)
    return [_unlabelled(row, found, config, where) for where, row in numbered(rows, Path(path).name)]


def find_columns(rows: Sequence[Row], mapping: Mapping[str, str], task: str, *, labelled: bool) -> Columns:
    """Columns as `mapping` says, the others by their usual names."""
    has = list(rows[0])
    for ours, theirs in mapping.items():
        if ours not in OURS:
            raise unknown("column of ours", ours, OURS)
        if theirs not in has:
            raise unknown("column", theirs, has)
    text, pair = mapping.get("text"), mapping.get("text_pair")
    if text is None:
        found = next(((a, b) for a, b in PAIRS if a in has and b in has), None)
        text, pair = (found[0], pair or found[1]) if found else (next((name for name in TEXTS if name in has), None), pair)
    if text is None:
        raise UserError(f"no text column among {', '.join(has)}; say which with --columns text=NAME")
    usual, key = (SCORES, "score") if task == "regression" else (LABELS, "label")
    aim = mapping.get(key) or next((name for name in usual if name in has and name not in (text, pair)), None)
    if aim is None and task != "regression":
        aim = next((name for name in NAMES if name in has), None)
    if aim is None and labelled:
        raise UserError(f"no {key} column among {', '.join(has)}; say which with --columns {key}=NAME")
    names = mapping.get("label_text") or next((name for name in NAMES if name in has and name != aim), None)
    return Columns(text, pair, None if key == "score" else aim, names, aim if key == "score" else None)


def _label_names(read: tuple[list[Row], list[str] | None], columns: Columns, task: str) -> tuple[str, ...]:
    if task == "regression":
        return ()
    rows, classes = read
    assert columns.label is not None
    values: dict[int | str, str] = {}
    for where, row in numbered(rows, "train"):
        value = _label(row, columns, where)
        if classes is not None and isinstance(value, int) and 0 <= value < len(classes):
            continue
        named = row.get(columns.label_text) if columns.label_text else None
        name = str(named) if isinstance(value, int) and named not in (None, "") else str(value)
        if values.setdefault(value, name) != name:
            raise UserError(f'{where}: label {value} is called "{name}" here and "{values[value]}" earlier')
    if classes is not None and not values:
        return tuple(classes)
    if len({type(value) for value in values}) > 1:
        raise UserError(f"the labels in {columns.label} are of mixed type: numbers and strings")
    if len(values) < 2:
        raise UserError(f'train has the one label "{next(iter(values))}"; classification needs two at least')
    return tuple(values[value] for value in sorted(values))  # pyright: ignore[reportArgumentType]


def _label(row: Row, columns: Columns, where: str) -> int | str:
    assert columns.label is not None
    value = row.get(columns.label)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not value.is_integer():
        raise UserError(f"{where}: {columns.label} = {value}, which is no class; for numbers use --task regression")
    if isinstance(value, float):
        return int(value)
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return value
    raise UserError(f"{where}: {columns.label} = {value!r} is no label")


def _example(row: Row, columns: Columns, task: str, labels: Sequence[str], config: DataConfig, where: str) -> Example:
    plain = _unlabelled(row, columns, config, where)
    label, score = None, None
    if task == "regression":
        value = row.get(columns.score or "")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}: {columns.score} = {value!r} is no finite number")
        score = float(value)
    else:
        label = _index(row, columns, labels, where)
    return Example(plain.text, plain.text_pair, label, score, plain.id)


def _index(row: Row, columns: Columns, labels: Sequence[str], where: str) -> int:
    """The class of a row: by its name, by its label's own words, or, where names are not there, by its number."""
    value = _label(row, columns, where)
    named = row.get(columns.label_text) if columns.label_text else None
    for name in (named, str(value)):
        if name is not None and name in labels:
            return labels.index(name)
    numbers = all(label.lstrip("-").isdigit() for label in labels)
    if isinstance(value, int) and named in (None, "") and not numbers and 0 <= value < len(labels):
        return value
    raise UserError(f'{where}: the label "{named or value}" is none of {", ".join(labels[:12])}')


def _unlabelled(row: Row, columns: Columns, config: DataConfig, where: str) -> Example:
    texts: list[str | None] = []
    for column in (columns.text, columns.text_pair):
        value: Any = row.get(column) if column else None
        if column and not isinstance(value, str):
            raise UserError(f"{where}: {column} = {value!r} is no text")
        texts.append(value)
    text = texts[0] or ""
    if config.mark is not None:
        text = marked(text, row, config.mark, where)
    name = row.get("id")
    return Example(text, texts[1], id=None if name is None else str(name))


def _note(columns: Columns, made: Mapping[str, list[Example]], labels: Sequence[str]) -> str:
    read = f"{columns.text} and {columns.text_pair}" if columns.text_pair else columns.text
    aim = columns.label or columns.score
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in made.items())
    kinds = f" ({len(labels)} labels: {', '.join(labels[:8])}{', …' if len(labels) > 8 else ''})" if labels else ""
    return f"data: {sizes}; {aim}{kinds} from {read}"
