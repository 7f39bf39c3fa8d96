"""Which column is which: by the usual names, or as `columns` maps them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graftlm.core.errors import UserError, unknown
from graftlm.tasks._read import Table

KEYS = ("text", "text_pair", "label", "label_text", "score", "id")
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
)
TEXTS = (
    *("text", "sentence", "content", "review", "tweet", "body", "comment", "message", "utterance"),
    *("document", "question", "input"),
)
LABELS = (
    *("label", "labels", "target", "class", "category", "stars", "sentiment", "intent", "topic", "relation"),
    *("gold_label", "coarse_label", "label_text", "label_name"),
)
SCORES = ("score", "rating", "similarity_score", "value", "stars")
MAYBE_SCORES = ("label", "labels", "target")  # taken as a score only where they hold fractions
IDS = ("id", "idx", "guid")
NAMES = ("text", "name")  # "label_text" or "label_name" beside "label"


@dataclass(frozen=True)
class Columns:
    """Their column for each of ours; None where there is none. `answer` is the label's or the score's."""

    text: str
    text_pair: str | None
    answer: str | None
    label_text: str | None
    id: str | None

    def said(self, task: str) -> str:
        """One line for the user: what was taken for what."""
        answer = "score" if task == "regression" else "label"
        parts = [("text", self.text), ("text_pair", self.text_pair), (answer, self.answer)]
        parts += [("label_text", self.label_text)]
        return "columns: " + ", ".join(f"{ours}={theirs}" for ours, theirs in parts if theirs is not None)


def find(table: Table, task: str | None, given: Mapping[str, str], marks: Iterable[str] = ()) -> Columns:
    """The columns of a table for a task; without a task (for predicting) a label is not needed.

    A mapped text without a mapped text_pair is a single text. Unknown keys, mapped columns that are not there, and
    needed ones that are not found are UserErrors.
    """
    for ours in given:
        if ours not in KEYS:
            raise unknown("key of columns", ours, KEYS)
    for theirs in (*given.values(), *marks):
        has(table, theirs)
    text, pair = _texts(table, given)
    regression = task == "regression"
    if regression:
        answer = _score(table, given)
    elif task is None:
        answer = given.get("label") or given.get("score") or first(table, (*LABELS, *SCORES))
    else:
        answer = given.get("label") or first(table, LABELS)
    if answer is None and task is not None:
        kind, example = ("score", "rating") if regression else ("label", "stars")
        raise not_found(table, kind, example)
    label_text = given.get("label_text")
    if label_text is None and answer is not None and not regression:
        label_text = first(table, [f"{answer}_{name}" for name in NAMES])
    return Columns(text, pair, answer, None if regression else label_text, given.get("id") or first(table, IDS))


def of_texts(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """`given` for predicting: columns that are no texts may be absent."""
    return {ours: theirs for ours, theirs in given.items() if ours.startswith("text") or theirs in table.columns}


def has(table: Table, column: str) -> None:
    """Refuses a column that a table lacks, naming the nearest."""
    if column not in table.columns:
        raise UserError(f"{table.where}: {unknown('column', column, table.columns)}")


def _texts(table: Table, given: Mapping[str, str]) -> tuple[str, str | None]:
    if "text" not in given and "text_pair" not in given:
        for names in PAIRS:
            one, other = (first(table, [name]) for name in names)
            if one is not None and other is not None:
                return one, other
    text = given.get("text") or first(table, TEXTS)
    if text is None:
        raise not_found(table, "text", "body")
    return text, given.get("text_pair")


def _score(table: Table, given: Mapping[str, str]) -> str | None:
    known = given.get("score") or first(table, SCORES)
    if known is not None:
        return known
    maybe = given.get("label") or first(table, MAYBE_SCORES)
    if maybe is None:
        return None
    if maybe in table.names or not any(_fraction(value) for value in table.columns[maybe]):
        raise UserError(
            f'{table.where}: column "{maybe}" holds no fractions; `--task classification` takes it for classes, '
            f"and `--columns score={maybe}` for scores"
        )
    return maybe


def _fraction(value: Any) -> bool:
    if isinstance(value, str):
        return "." in value and value.replace(".", "", 1).lstrip("+-").isdigit()
    return isinstance(value, float)


def first(table: Table, names: Iterable[str]) -> str | None:
    """The first of our usual names that a table has, whatever its case."""
    folded = {column.casefold(): column for column in reversed(list(table.columns))}
    return next((folded[name.casefold()] for name in names if name.casefold() in folded), None)


def not_found(table: Table, kind: str, example: str) -> UserError:
    """The error for a column that is needed and that no usual name finds."""
    found = ", ".join(table.columns)
    return UserError(
        f"{table.where} has no {kind} column that is known by name; it has {found}; "
        f"say which it is, as `--columns {kind}=NAME` (for example {kind}={example})"
    )
