"""Misspelt words set right, each by an edit: a tagger whose tags say how a word is changed.

The tags are the edits of train and "=", which keeps a word. A word of another split that needs another edit has no loss
and counts as missed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _rows, tagging
from graftlm.tasks._edits import KEEP, aligned, edit, edited
from graftlm.tasks._features import Encoded, Reading
from graftlm.tasks._read import Table
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._token_loss import UNREAD, token_loss
from graftlm.tasks._windows import Span
from graftlm.tasks._words import spaced, worded

READS, HEAD, TUNES, SHOWN = "rows", "tokens", True, "text"
LOWER_IS_BETTER = ("loss",)
loss, goals, outputs = token_loss, tagging.goals, tagging.outputs
COLUMNS = {
    "text": ("input", "text", "wrong", "misspelling", "source", "sentence"),
    "target": ("target", "right", "corrected", "correction", "output"),
}


class Options(Config):
    """`keep`: by how much keeping a word must beat the best edit; null tunes it on validation, for most words are kept.
    `subword`: which token of a word is read. `stride`: tokens that neighbouring parts of a long text have in common.
    """

    keep: float | None = None
    subword: Literal["first", "last"] = "first"
    stride: PositiveInt = 32


def read(given: Given) -> TaskData:
    """Texts and the same texts as they should be; words stand between white space."""
    found = _rows.columns(given.first, given.config.columns, COLUMNS)
    for table in given.tables.values():
        for ours in COLUMNS:
            _rows.has(table, found[ours])
    skip = given.config.skip_bad
    known = tuple(given.labels) if given.labels is not None else _labels(given.train, found, skip)
    places = {name: place for place, name in enumerate(known)}
    notes = [_rows.said(found), f"edits: {len(known) - 1} different ones"]
    splits: dict[str, list[Example]] = {}
    for split, table in given.cut.items():
        examples, left_out = _rows.kept(table, lambda row, table=table: _corrected(table, row, found), skip)
        names = [[edit(*pair) for pair in _pairs(example)] for example in examples]
        splits[split] = [
            replace(example, answer=tuple(places.get(name, UNREAD) for name in own))
            for example, own in zip(examples, names, strict=True)
        ]
        other = sum(name not in places for own in names for name in own)
        notes += left_out
        notes += [f"{other} words of {split} need an edit that train has not, and count as missed"] if other else []
    return TaskData(splits, known, False, tuple(notes))


def _labels(source: Table, found: Mapping[str, str], skip: bool) -> tuple[str, ...]:
    examples, _ = _rows.kept(source, lambda row: _corrected(source, row, found), skip)
    seen = {edit(*pair) for example in examples for pair in _pairs(example)}
    if seen <= {KEEP}:
        raise UserError(f"no word of {source.where} is changed; there is nothing to learn")
    return (KEEP, *sorted(seen - {KEEP}))


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The texts to set right; how they should be is not needed."""
    found = _rows.columns(table, given, COLUMNS, optional=("target",))
    return [_text(table, row, found) for row in range(len(table))]


def _text(table: Table, row: int, found: Mapping[str, str]) -> Example:
    at, column = table.at(row), found["text"]
    text = _rows.text(table.columns[column][row], at, column)
    identity = _rows.identity(table, row, found.get("id"))
    return Example(text, words=spaced(text), id=identity, at=at)


def _corrected(table: Table, row: int, found: Mapping[str, str]) -> Example:
    example, column = _text(table, row, found), found["target"]
    target = _rows.text(table.columns[column][row], example.at, column)
    if not example.words:
        raise UserError(f"{example.at}: {found['text']} is blank")
    return replace(example, meta={"right": aligned(_words(example), target.split())})


def _words(example: Example) -> list[str]:
    return [example.text[start:end] for start, end in example.words or ()]


def _pairs(example: Example) -> list[tuple[str, str]]:
    """Each word, and what it should be."""
    return list(zip(_words(example), example.meta["right"], strict=True))


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """Rows as a tagger's, of the words between white space."""
    return tagging.encode(worded(examples, spaced), reading, problem)


def _given(logits: Tensor, encoded: Encoded, problem: Problem) -> list[list[str]]:
    """What each word of each example becomes."""
    asked = problem.options.keep
    logits = logits.clone()
    logits[..., 0] -= problem.tuned.get("keep", 0.0) if asked is None else asked
    found = tagging.found_tags(logits, encoded, problem)
    return [
        [edited(word, tag or KEEP) for word, (tag, _) in zip(_words(example), own, strict=True)]
        for example, own in zip(encoded.examples, found, strict=True)
    ]


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The text set right, with all else as it was, and each word that was changed with its characters [start, end)."""
    answers: list[dict[str, Any]] = []
    for example, own in zip(encoded.examples, _given(logits, encoded, problem), strict=True):
        changed = [
            (span, wrong, right)
            for span, wrong, right in zip(example.words or (), _words(example), own, strict=True)
            if wrong != right
        ]
        edits = [{"start": start, "end": end, "wrong": wrong, "right": right} for (start, end), wrong, right in changed]
        answers.append({"text": _replaced(example.text, [(span, right) for span, _, right in changed]), "edits": edits})
    return answers


def right(example: Example, labels: Sequence[str]) -> str:
    """The text as it should be."""
    pairs = zip(example.words or (), _pairs(example), strict=True)
    changes = [(span, right) for span, (wrong, right) in pairs if wrong != right]
    return _replaced(example.text, changes)


def _replaced(text: str, changes: Sequence[tuple[Span, str]]) -> str:
    out, end = "", 0
    for (start, stop), right in changes:
        out += text[end:start] + right
        end = stop if right or not text[stop : stop + 1].isspace() else stop + 1  # a word goes with its space
    return out + text[end:]


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("f1", "precision", "recall", "accuracy", "exact_match", "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """Precision, recall and F1 of changed words (right only if changed as they should be), the share of right words
    and of wholly right texts.
    """
    changed = due = hits = words = right_words = right_texts = 0
    for example, own in zip(encoded.examples, _given(logits, encoded, problem), strict=True):
        for (wrong, right), given in zip(_pairs(example), own, strict=True):
            changed += given != wrong
            due += right != wrong
            hits += given == right != wrong
            right_words += given == right
        words += len(own)
        right_texts += own == list(example.meta["right"])
    return {
        "f1": 2 * hits / max(1, changed + due),
        "precision": hits / max(1, changed),
        "recall": hits / max(1, due),
        "accuracy": right_words / max(1, words),
        "exact_match": right_texts / max(1, len(encoded.examples)),
    }


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: the edits are too many for a table."""
    return Details()


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """The problem with the margin of keeping a word that gives the best F1."""
    if problem.options.keep is not None or not encoded.examples:
        return problem
    best = logits[..., 1:].max(-1)
    margins = (logits[..., 0] - best.values).double().nan_to_num(nan=1e30).tolist()
    edits = best.indices.tolist()
    pairs = [_pairs(example) for example in encoded.examples]
    due = sum(wrong != right for own in pairs for wrong, right in own)
    words: list[tuple[float, bool, bool]] = []
    for row, (owner, own) in enumerate(zip(encoded.owners, encoded.meaning, strict=True)):
        for place, word in enumerate(own):
            if word is not None:
                wrong, right = pairs[owner][word]
                given = edited(wrong, problem.labels[1 + edits[row][place]])
                words.append((margins[row][place], given != wrong, given == right != wrong))
    words.sort()
    scores, changed, hits = [0.0], 0, 0
    for _, changes, hit in words:
        changed, hits = changed + changes, hits + hit
        scores.append(2 * hits / max(1, changed + due))
    count = max(range(len(scores)), key=lambda count: (scores[count], -count))
    edges = [words[0][0] - 2.0, *(margin for margin, *_ in words), words[-1][0] + 2.0] if words else [0.0, 0.0]
    return replace(problem, tuned={"keep": (edges[count] + edges[count + 1]) / 2})
