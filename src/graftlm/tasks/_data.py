"""Data of a task: splits of examples with class indices or scores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import _columns, _few_shot
from graftlm.tasks._columns import Columns
from graftlm.tasks._examples import Marks, classes, examples_of, scores, usable, with_fields
from graftlm.tasks._prompted import rows_of
from graftlm.tasks._read import Table, read_file, shown
from graftlm.tasks._source import Source, canonical, check_limits, locate, missing
from graftlm.tasks._task import Given, Problem, TaskData
from graftlm.tasks._task import task as module_of


def load(
    config: DataConfig,
    task: str | Problem,
    splits: Collection[str] | None = None,
    labels: Sequence[str] | None = None,
    fields: Collection[str] = (),
) -> TaskData:
    """The splits that are asked for (all that are there by default); no other is read.

    A validation split may be absent where train is asked for too; any other that is absent is an error. `labels` are
    those of a trained run; without them they are taken from train, or where it is not asked for, from all that is.
    With `shots`, train and validation are drawn from train. `limit` cuts the rows first. `fields` are names of columns
    to keep in each example's `meta["row"]`, where they are not its texts.
    """
    problem = Problem(task, options=module_of(task).Options()) if isinstance(task, str) else task
    source = locate(config, splits)
    limits = check_limits(config.limit, source)
    asked = _asked(source, splits, drawn=config.shots is not None)
    tables = _read(source, asked, drawn=config.shots is not None)
    if problem.module.READS == "rows":
        return _by_rows(config, problem, tables, asked, limits, labels)
    task = "regression" if problem.module.READS == "score" else "classification"
    first = next(iter(tables.values()))
    columns = _columns.find(first, task, config.columns, config.mark or ())
    for table in tables.values():
        _same_columns(table, first, columns, config.mark)
    aliases = _aliases(columns)
    beside = [name for name in fields if name not in aliases and name not in aliases.values()]
    for table in tables.values():
        for name in beside:
            _columns.has(table, name)
    sizes = {split: min(len(table), limits.get(split, len(table))) for split, table in tables.items()}
    left_out: list[str] = []
    if config.skip_bad:

        def filled(one: Table) -> None:
            if empty := [name for name in beside if one.columns[name][0] is None]:
                raise UserError(f"{one.at(0)}: {empty[0]} is missing, which the template has a field for")

        tables, sizes, left_out = usable(tables, sizes, columns, config, task, labels, filled)
    rows = {split: range(size) for split, size in sizes.items()}
    cut = {
        split: table.take(rows[split]) if len(rows[split]) < len(table) else table for split, table in tables.items()
    }
    if task == "classification":
        found, answers = classes(tables, columns, config, labels, rows)
    else:
        found, answers = (), {split: scores(table, columns) for split, table in cut.items()}
    examples = {
        split: with_fields(examples_of(table, columns, config.mark, answers[split], task), table, beside)
        for split, table in cut.items()
    }
    notes = [columns.said(task), *left_out, *_notes(examples)]
    if config.shots is not None and "train" in examples:
        drawn, rare = _drawn(examples["train"], found, config, config.shots)
        notes.append(
            f"few-shot: {len(drawn['train'])} examples for train and as many others for validation, "
            f"drawn from the {len(examples['train'])} of train with seed {config.shots_seed}"
        )
        notes += [f"few-shot: {count} and not {config.shots} of {name}, half of what train has" for name, count in rare]
        examples |= drawn
    return TaskData(
        {name: examples[split] for name, split in asked.items()},
        found,
        columns.text_pair is not None,
        tuple(notes),
        aliases,
    )


def _aliases(columns: Columns) -> dict[str, str]:
    """Their names of our texts."""
    pair = {columns.text_pair: "text_pair"} if columns.text_pair is not None else {}
    return {columns.text: "text", **pair}


def _by_rows(
    config: DataConfig,
    problem: Problem,
    tables: Mapping[str, Table],
    asked: Mapping[str, str],
    limits: Mapping[str, int],
    labels: Sequence[str] | None,
) -> TaskData:
    """The examples of a task that reads its rows itself, which has no classes to balance and no entities to mark."""
    for name, value in (("shots", config.shots), ("mark", config.mark)):
        _has_none(problem.task, name, value)
    cut = {split: table.take(range(min(len(table), limits.get(split, len(table))))) for split, table in tables.items()}
    read: TaskData = problem.module.read(Given(tables, cut, config, problem, labels))
    return replace(read, splits={name: read.splits[split] for name, split in asked.items()})


def _has_none(task: str, name: str, value: object) -> None:
    if value is not None:
        raise UserError(f'{name} = {shown(value)}: the task "{task}" has no {name}; leave it out')


def read_texts(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    mark: Marks | None = None,
    task: str = "classification",
    fields: Collection[str] = (),
) -> list[Example]:
    """The inputs of a task in one file, for predicting. A label is not needed; one of a text or pair that is there is
    kept in `meta["label"]` as it stands, and so are columns that are among `fields`, in `meta["row"]`."""
    table = _file(path)
    module = module_of(task)
    if module.READS == "rows":
        _has_none(task, "mark", mark)
        return rows_of(table, columns or {}) if fields else module.asked(table, columns or {})
    found = _columns.find(table, None, _columns.of_texts(table, columns or {}), mark or ())
    answers = table.columns[found.answer] if found.answer else [None] * len(table)
    beside = [name for name in fields if name in table.columns and name not in _aliases(found)]
    return with_fields(examples_of(table, found, mark, answers, None), table, beside)


def read_candidates(
    path: str | Path, columns: Mapping[str, str] | None = None, *, stored: bool = False
) -> list[Example]:
    """The documents in one file that a run of matching is to rank. `stored`: `columns` are those of the training, whose
    document need not be there."""
    return module_of("matching").candidates(_file(path), columns or {}, stored)


def _file(path: str | Path) -> Table:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file} is a folder; name a file") if file.is_dir() else missing(file)
    return read_file(file)


def _asked(source: Source, splits: Collection[str] | None, drawn: bool) -> dict[str, str]:
    """Each split's name as asked for, and as it is here."""
    there = [*source.found, *(["validation"] if drawn and "validation" not in source.found else [])]
    asked = {name: canonical(name) for name in (there if splits is None else dict.fromkeys(splits))}
    for name, split in list(asked.items()):
        if drawn and split in ("train", "validation"):
            source.check("train")
        elif split == "validation" and split not in source.found and "train" in asked.values():
            del asked[name]
        else:
            source.check(split)
    return asked


def _read(source: Source, asked: Mapping[str, str], drawn: bool) -> dict[str, Table]:
    """The tables that are needed, train first; few-shot validation comes from train."""
    needed = {"train" if drawn and split == "validation" else split for split in asked.values()}
    tables = {split: source.read(split) for split in sorted(needed, key=lambda split: (split != "train", split))}
    for split, table in tables.items():
        if not len(table):
            raise UserError(f'split "{split}" in {source.path} holds no examples')
    return tables


def _same_columns(table: Table, first: Table, columns: Columns, mark: Marks | None) -> None:
    if mark is not None and columns.text_pair is not None:
        raise UserError(
            f"mark = {', '.join(mark)} marks one text, but {table.where} has pairs; map the one with columns"
        )
    for column in (columns.text, columns.text_pair, columns.answer, *(mark or ())):
        if column is not None and table is not first:
            _columns.has(table, column)


def _notes(examples: Mapping[str, Sequence[Example]]) -> list[str]:
    empty = {split: sum(not example.text.strip() for example in own) for split, own in examples.items()}
    return [f"{count} texts of {split} are empty" for split, count in empty.items() if count]


def _drawn(
    train: Sequence[Example], labels: Sequence[str], config: DataConfig, shots: int
) -> tuple[dict[str, list[Example]], list[tuple[str, int]]]:
    """The two splits, and of which label each has how many where that is fewer than the shots."""
    if labels:
        bins, names = [int(example.label or 0) for example in train], [f'"{label}"' for label in labels]
    else:
        bins, names = _few_shot.halves([float(example.score or 0) for example in train])
    first, second = _few_shot.draw(train, bins, names, shots, config.shots_seed, halve=config.shots_rare == "half")
    halves = [(name, bins.count(place) // 2) for place, name in enumerate(names)]
    return {"train": first, "validation": second}, [(name, count) for name, count in halves if count < shots]
