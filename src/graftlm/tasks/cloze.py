"""The words that are missing in a text, by an encoder's own MLM head (Devlin et al., 2018; Taylor, 1953).

A mask stands for one token. The loss is the mean cross-entropy of a row's masks over the whole vocabulary. In the
prompt formulation the mask is the template's, its fields are a row's columns, and causal models are asked as well
(Petroni et al., 2019; Liu et al., 2021, "GPT Understands, Too").
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _prompted, _rows, _templates
from graftlm.tasks._features import Encoded, Features, Reading
from graftlm.tasks._read import Table
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._token_loss import UNREAD, goals_of, language_loss
from graftlm.tasks._windows import Span, Window, chosen_tokens, windows
from graftlm.tasks._written import Guessed

READS, HEAD, TUNES, SHOWN = "rows", "mlm", False, "words"
LOWER_IS_BETTER = ("loss",)
loss = language_loss
COLUMNS = {
    "text": ("text", "sentence", "input"),
    "words": ("words", "word", "answers", "answer", "target", "label"),
}
TOP = 5


class Options(Config):
    """`mask`: what stands for a missing word in the data. `best`: how many words are given for each. `stride`: tokens
    that neighbouring parts of a text longer than the model takes have in common. `prompt`: the fields of the template,
    which a prompt formulation puts there.
    """

    mask: str = Field(default="[MASK]", min_length=1)
    best: PositiveInt = 5
    stride: PositiveInt = 32
    prompt: str = ""


def read(given: Given) -> TaskData:
    """Texts with masks, and a word or a list of words, one for each mask; or a template's fields and one word."""
    if given.problem.options.prompt:
        return _fields_and_words(given)
    found = _rows.columns(given.first, given.config.columns, COLUMNS)
    for table in given.tables.values():
        for ours in COLUMNS:
            _rows.has(table, found[ours])
    splits: dict[str, list[Example]] = {}
    notes = [_rows.said(found)]
    for split, table in given.cut.items():

        def row_of(row: int, table: Table = table) -> Example:
            return _answered(table, row, found, given.problem.options.mask)

        splits[split], left_out = _rows.kept(table, row_of, given.config.skip_bad)
        notes += left_out
    return TaskData(splits, (), False, tuple(notes))


def _fields_and_words(given: Given) -> TaskData:
    """The columns that a template has fields for, and the word that is right at its mask."""
    prompt, mapped = given.problem.options.prompt, given.config.columns
    _rows.known((*_templates.fields(prompt), "words", "id"), mapped)
    splits: dict[str, list[Example]] = {}
    notes: list[str] = []
    for split, table in given.cut.items():
        own = {ours: theirs for ours, theirs in mapped.items() if ours in ("words", "id")}
        found = _rows.columns(table, own, {"words": COLUMNS["words"]})
        fields = _prompted.columns_of(prompt, "prompt.template", table, mapped)

        def row_of(row: int, table: Table = table, found: Any = (found, fields)) -> Example:
            return _worded(table, row, *found)

        splits[split], left_out = _rows.kept(table, row_of, given.config.skip_bad)
        notes += [] if notes else [_rows.said({**fields, **found})]
        notes += left_out
    return TaskData(splits, (), False, tuple(notes))


def _worded(table: Table, row: int, found: Mapping[str, str], fields: Mapping[str, str]) -> Example:
    at, column = table.at(row), found["words"]
    words = _words(table.columns[column][row], at, column)
    if len(words) != 1 or not words[0]:
        raise UserError(f"{at}: {column} has {len(list(filter(None, words)))} words, and a template asks for one")
    values = {name: _prompted.cell(table.columns[theirs][row], at, theirs) for name, theirs in fields.items()}
    return Example("", id=_rows.identity(table, row, found.get("id")), at=at, answer=tuple(words), meta={"row": values})


def _words(value: Any, at: str, column: str) -> list[str]:
    """A list of words, or one word alone."""
    value = _rows.listed(value.strip() if isinstance(value, str) else value)
    if isinstance(value, str | int | float):
        return [_prompted.cell(value, at, column)]
    return _rows.strings(value, at, column)


def _answered(table: Table, row: int, found: Mapping[str, str], mask: str) -> Example:
    example, column = _text(table, row, found), found["words"]
    words = _words(table.columns[column][row], example.at, column)
    masks = len(_masks(example.text, mask))
    if not masks:
        raise UserError(f'{example.at}: {found["text"]} holds no "{mask}"; task.mask says what stands for a word')
    if masks != len(words) or not all(words):
        raise UserError(f"{example.at}: {masks} masks in {found['text']}, but {len(list(filter(None, words)))} words")
    return replace(example, answer=tuple(words))


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The texts; words are not needed."""
    found = _rows.columns(table, given, COLUMNS, optional=("words",))
    return [_text(table, row, found) for row in range(len(table))]


def _text(table: Table, row: int, found: Mapping[str, str]) -> Example:
    text = _rows.text(table.columns[found["text"]][row], table.at(row), found["text"])
    return Example(text, id=_rows.identity(table, row, found.get("id")), at=table.at(row))


def _masks(text: str, mask: str) -> list[Span]:
    return [match.span() for match in re.finditer(re.escape(mask), text)]


def prepared(problem: Problem, tokenizer: Any) -> Problem:
    """The problem as it is; a tokenizer without a mask is refused."""
    if tokenizer.mask_token_id is None and not problem.options.prompt:
        raise UserError(f"{type(tokenizer).__name__} has no mask token, so the model guesses no masked words")
    return problem


def outputs(problem: Problem) -> int:
    """None of its own: the model's MLM head gives them."""
    return 0


def _filled(text: str, spans: Sequence[Span], words: Sequence[str]) -> tuple[str, list[Span]]:
    """The text with words in place of some of its characters, and where they stand then."""
    out, found, end = "", [], 0
    for (start, stop), word in zip(spans, words, strict=True):
        out += text[end:start]
        found.append((len(out), len(out) + len(word)))
        out, end = out + word, stop
    return out + text[end:], found


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """Rows whose places are masks, each in the row that shows most around it, with the right tokens as `answer`.

    A word of several tokens is an error where `reading` is strict, else nothing is learned from it.
    """
    options: Options = problem.options
    if reading.fill is not None:
        return _in_template(examples, reading, options.prompt)
    if options.prompt:
        raise UserError("task.prompt is what a template's fields are kept in; --template gives one")
    masks = [_masks(example.text, options.mask) for example in examples]
    bare = next((example for example, own in zip(examples, masks, strict=True) if not own), None)
    if bare is not None:
        raise UserError(f'{bare.at or "an input"} holds no "{options.mask}": {bare.text[:60]!r}')
    token = reading.tokenizer.mask_token
    shown = [_filled(example.text, own, [token] * len(own)) for example, own in zip(examples, masks, strict=True)]
    right, several = _right(examples, masks, reading)
    parts: dict[int, list[Window]] = {}
    for window in windows([text for text, _ in shown], None, reading, options.stride):
        parts.setdefault(window.owner, []).append(window)
    rows: list[Features] = []
    owners: list[int] = []
    meaning: list[list[int]] = []
    for owner, own in parts.items():
        chosen = chosen_tokens(shown[owner][1], own, False)
        for number, window in enumerate(own):
            here = sorted((place, mask) for mask, (which, place) in chosen.items() if which == number)
            if not here:
                continue
            answer = [right[owner][mask] for _, mask in here] if owner in right else None
            rows.append(
                Features(window.features.ids, window.features.types, [window.places[p] for p, _ in here], answer)
            )
            owners.append(owner)
            meaning.append([mask for _, mask in here])
    long = sum(len(own) > 1 for own in parts.values())
    notes = [f"{long} texts are longer than {reading.length} tokens and are read in parts that overlap"] if long else []
    return Encoded(examples, rows, owners, meaning, (*notes, *_several(several, reading)))


def _in_template(examples: Sequence[Example], reading: Reading, prompt: str) -> Encoded:
    """A row an example, asked at the template's mask."""
    assert reading.fill is not None
    rows, cut = reading.fill([_prompted.values_of(example, prompt) for example in examples], reading.length)
    words = [example.answer[0] if example.answer else None for example in examples]
    right = [
        None if word is None else _token(word, example, reading) for word, example in zip(words, examples, strict=True)
    ]
    rows = [row if ids is None else replace(row, answer=ids) for row, ids in zip(rows, right, strict=True)]
    notes = [f"{cut} examples are longer than {reading.length} tokens in their template and were cut"] * bool(cut)
    notes += _several(right.count([UNREAD]), reading)
    return Encoded(examples, rows, range(len(rows)), [[0]] * len(rows), tuple(notes))


def _several(count: int, reading: Reading) -> list[str]:
    wrong = "nothing is learned from them" if reading.learned else "they count as wrong"
    return [f"{count} words are no single token: {wrong}"] if count else []


def _token(word: str, example: Example, reading: Reading) -> list[int]:
    """The one token of a word at the template's mask; where there is none, an error if `reading` is strict."""
    assert reading.word is not None
    try:
        ids = reading.word(word)
    except UserError as error:
        if reading.strict:
            raise UserError(f"{example.at}: {error}") from None
        return [UNREAD]
    if len(ids) != 1 and reading.strict:
        raise UserError(
            f'{example.at}: "{word}" is {len(ids)} tokens here, and a mask stands for one; --skip-bad leaves such '
            "words out"
        )
    return ids if len(ids) == 1 else [UNREAD]


def _right(
    examples: Sequence[Example], masks: Sequence[Sequence[Span]], reading: Reading
) -> tuple[dict[int, list[int]], int]:
    """The token of each word as it stands in its text, by example; and how many words have no one token."""
    found: dict[int, list[int]] = {}
    several = 0
    for place, (example, own) in enumerate(zip(examples, masks, strict=True)):
        if example.answer is None:
            continue
        text, spans = _filled(example.text, own, example.answer)
        read = reading.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found[place] = []
        for (start, stop), word in zip(spans, example.answer, strict=True):
            ids = [
                token
                for token, (first, last) in zip(read["input_ids"], read["offset_mapping"], strict=True)
                if first < stop and start < last and last > first
            ]
            if len(ids) != 1 and reading.strict:
                raise UserError(
                    f'{example.at}: "{word}" is {len(ids)} tokens here, and a mask stands for one; --skip-bad leaves '
                    "such words out"
                )
            several += len(ids) != 1
            found[place].append(ids[0] if len(ids) == 1 else UNREAD)
    return found, several


def goals(encoded: Encoded) -> Tensor:
    """The right tokens (rows places), −100 where there is none."""
    bare = next((example for example in encoded.examples if example.answer is None), None)
    if bare is not None:
        raise UserError(f"an example without words: {bare.text[:60]!r}")
    return goals_of([torch.tensor(row.answer, dtype=torch.long) for row in encoded.rows])


def decode(guessed: Guessed, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The text with the likeliest words in it, but for a template's; those words; and the next ones, scored."""
    best: list[dict[int, Sequence[tuple[str, float]]]] = [{} for _ in encoded.examples]
    for owner, own, words in zip(encoded.owners, encoded.meaning, guessed.words, strict=True):
        best[owner] |= dict(zip(own, words, strict=True))
    answers: list[dict[str, Any]] = []
    for example, found in zip(encoded.examples, best, strict=True):
        words = [found[place][0][0] for place in range(len(found))]
        listed = [[{"word": word, "score": share} for word, share in found[place]] for place in range(len(found))]
        spans = [] if problem.options.prompt else _masks(example.text, problem.options.mask)
        text = {"text": _filled(example.text, spans, words)[0]} if spans else {}
        answers.append({**text, "words": words, "best": listed})
    return answers


def right(example: Example, labels: Sequence[str]) -> list[str]:
    """The words that the example has."""
    return list(example.answer)


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("accuracy", f"accuracy@{TOP}", "loss")


def metrics(guessed: Guessed, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """The share of masks whose word is the likeliest, and is among the likeliest five."""
    ranks = [rank for own in guessed.ranks for rank in own]
    counts = {"accuracy": 1, f"accuracy@{TOP}": TOP}
    return {name: sum(0 < rank <= most for rank in ranks) / max(1, len(ranks)) for name, most in counts.items()}


def shares(guessed: Guessed, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: right words, and masks."""
    own: list[list[int]] = [[] for _ in encoded.examples]
    for owner, ranks in zip(encoded.owners, guessed.ranks, strict=True):
        own[owner] += ranks
    return [(float(sum(rank == 1 for rank in ranks)), float(len(ranks))) for ranks in own]


def details(guessed: Guessed, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: the classes are all words."""
    return Details()


def tuned(guessed: Guessed, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem
