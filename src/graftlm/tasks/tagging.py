"""A tag for each word: named entities (BIO or BIOES), parts of speech, slots; the head reads one sub-word of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _rows, _schemes, _tag_metrics
from graftlm.tasks._features import Encoded, Features, Reading
from graftlm.tasks._read import Table, shown
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._token_loss import UNREAD, goals_of, token_loss
from graftlm.tasks._windows import Span, Window, chosen_tokens, windows
from graftlm.tasks._words import cut, located, spaced, worded

READS, HEAD, TUNES, SHOWN = "rows", "tokens", False, "tags"
LOWER_IS_BETTER = ("loss",)
loss = token_loss
COLUMNS = {
    "tokens": ("tokens", "words", "text", "sentence"),
    "tags": ("ner_tags", "pos_tags", "upos", "slots", "deprel", "labels", "tags"),
    "text": ("text",),
}
Found = tuple[str | None, float]  # a word's tag, None where no token is its own, and the tag's probability


class Options(Config):
    """`scheme`: what tags mean; "auto" takes BIO or BIOES where at least four of five tags but "O" are so written, and
    others are then errors; "plain" takes any tag as a label by itself. `repair`: tags that break the scheme are mended,
    where the first one would be an error. `subword`: which token of a word is read. `stride`: tokens that neighbouring
    parts of a text longer than the model takes have in common.
    """

    scheme: Literal["auto", "bio", "bioes", "plain"] = "auto"
    repair: bool = False
    subword: Literal["first", "last"] = "first"
    stride: PositiveInt = 32


def read(given: Given) -> TaskData:
    """Words and tags: two lists of equal length, or two strings with white space between. A text beside the words is
    what they are found in.

    The labels are those of all of train, unless they are given.
    """
    found = _columns(given.first, given.config.columns)
    skip, options = given.config.skip_bad, given.problem.options
    for table in given.tables.values():
        for column in (found["tokens"], found["tags"]):
            _rows.has(table, column)
    known = tuple(given.labels) if given.labels is not None else _labels(given.train, found, options, skip)
    kind = _schemes.scheme(known, options.scheme)
    notes = [_rows.said(found), f"tags: {len(known)} labels, {_schemes.SAID[kind]}"]
    splits: dict[str, list[Example]] = {}
    for split, table in given.cut.items():

        def row_of(row: int, table: Table = table) -> Example:
            return _indexed(_fitting(_tagged(table, row, found), kind), known, kind, options.repair)

        splits[split], left_out = _rows.kept(table, row_of, skip)
        notes += left_out
        mended = sum("mended" in example.meta for example in splits[split])
        notes += [f"{mended} of {len(splits[split])} examples of {split} had tags that were mended"] if mended else []
    return TaskData(splits, known, False, tuple(notes))


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The words to tag; tags are not needed."""
    found = _columns(table, given, asked=True)
    words = spaced if "tags" in found else cut  # tags count the words between white space
    return [_words(table, row, found, words) for row in range(len(table))]


def _columns(table: Table, given: Mapping[str, str], *, asked: bool = False) -> dict[str, str]:
    """Their columns; one of texts only where it is another than that of tokens."""
    found = _rows.columns(table, given, COLUMNS, optional=("tags", "text") if asked else ("text",))
    if not asked and "text" in given:
        _rows.has(table, given["text"])
    if found.get("text") == found["tokens"]:
        del found["text"]
    return found


def _labels(source: Table, found: Mapping[str, str], options: Options, skip: bool) -> tuple[str, ...]:
    examples, _ = _rows.kept(source, lambda row: _tagged(source, row, found), skip)
    kind = _schemes.of_tags((tag for example in examples for tag in example.answer), options.scheme)
    examples, _ = _rows.kept(source, lambda row: _fitting(_tagged(source, row, found), kind), skip)
    seen = {tag for example in examples for tag in example.answer}
    if len(seen) < 2:
        raise UserError(f"{source.where} has one tag only ({shown(next(iter(seen), ''))}); a tagger needs two or more")
    return _schemes.completed(sorted(seen), kind)


def _words(
    table: Table, row: int, found: Mapping[str, str], words: Callable[[str], tuple[Span, ...]] = spaced
) -> Example:
    """A row's words as characters of its text; those in a list are found in the text beside them, or joined by spaces.

    `words` are those of a string.
    """
    at, column, beside = table.at(row), found["tokens"], found.get("text", "")
    value = _rows.listed(table.columns[column][row])
    whole = table.columns[beside][row] if beside in table.columns else None
    identity = _rows.identity(table, row, found.get("id"))
    if isinstance(value, str) and whole is None:
        return Example(_rows.text(value, at, column), words=words(value), id=identity, at=at)
    tokens = _rows.strings(value, at, column)
    text = " ".join(tokens) if whole is None else _rows.text(whole, at, beside)
    instead = f"--columns text={column} reads the tokens joined by spaces"
    return Example(text, words=located(tokens, text, f"{at}: {beside}", instead), id=identity, at=at)


def _tagged(table: Table, row: int, found: Mapping[str, str]) -> Example:
    """A row's words with its tags as they are written."""
    example, column = _words(table, row, found), found["tags"]
    tags = _rows.strings(table.columns[column][row], example.at, column, table.names.get(column))
    words = len(example.words or ())
    if len(tags) != words:
        raise UserError(f"{example.at}: {words} words in {found['tokens']}, but {len(tags)} tags in {column}")
    if not words:
        raise UserError(f"{example.at}: {found['tokens']} is empty")
    return replace(example, answer=tuple(tags))


def _fitting(example: Example, kind: _schemes.Scheme) -> Example:
    """The example, whose tags must all be such as the scheme has."""
    for place, tag in enumerate(example.answer, 1):
        if not _schemes.fits(tag, kind):
            raise UserError(
                f'{example.at}: tag {place} is "{tag}", which {kind.upper()} does not have; task.scheme = plain takes '
                "any tag as a label by itself"
            )
    return example


def _indexed(example: Example, known: Sequence[str], kind: _schemes.Scheme, repair: bool) -> Example:
    """The example with its tags as places among the labels, once they are as the scheme spells them."""
    right = _schemes.mended(example.answer, kind)
    wrong = next((place for place, tag in enumerate(example.answer) if tag != right[place]), None)
    if wrong is not None and not repair:
        before = example.answer[wrong - 1] if wrong else "the start"
        raise UserError(
            f'{example.at}: tag {wrong + 1} is "{example.answer[wrong]}" after "{before}", where {kind.upper()} writes '
            f'"{right[wrong]}"; task.repair = true mends such tags'
        )
    other = next((tag for tag in right if tag not in known), None)
    if other is not None:
        listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        raise UserError(f'{example.at}: tag "{other}" is not among the known ones: {listed}')
    answer = tuple(known.index(tag) for tag in right)
    return replace(example, answer=answer, meta={"mended": True} if wrong is not None else {})


def outputs(problem: Problem) -> int:
    """How many numbers a head gives for one word."""
    return len(problem.labels)


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """Rows whose places are the first (or last) sub-words; each word is read in the row that shows most around it."""
    examples = worded(examples, cut)
    options: Options = problem.options
    parts: dict[int, list[Window]] = {}
    for window in windows([example.text for example in examples], None, reading, options.stride):
        parts.setdefault(window.owner, []).append(window)
    rows: list[Features] = []
    owners: list[int] = []
    meaning: list[list[int | None]] = []
    read_words = 0
    for owner, own in parts.items():
        chosen = chosen_tokens(examples[owner].words or (), own, options.subword == "last")
        read_words += len(chosen)
        for number, window in enumerate(own):
            here = sorted((place, word) for word, (which, place) in chosen.items() if which == number)
            ids = window.features.ids or [reading.tokenizer.eos_token_id or 0]
            types = window.features.types if window.features.ids or window.features.types is None else [0]
            rows.append(Features(ids, types, [window.places[place] for place, _ in here] or [0]))
            meaning.append([word for _, word in here] or [None])
            owners.append(owner)
    return Encoded(examples, rows, owners, meaning, _notes(examples, parts, read_words, reading))


def _notes(
    examples: Sequence[Example], parts: Mapping[int, Sequence[Window]], read_words: int, reading: Reading
) -> tuple[str, ...]:
    long = sum(len(own) > 1 for own in parts.values())
    lost = sum(len(example.words or ()) for example in examples) - read_words
    notes = [f"{long} texts are longer than {reading.length} tokens and are read in parts that overlap"] if long else []
    wrong = "" if reading.learned else ", which counts as wrong"
    notes += [f"{lost} words have no token of their own and are left without a tag{wrong}"] if lost else []
    return tuple(notes)


def goals(encoded: Encoded) -> Tensor:
    """The tags' indices (rows places), −100 where nothing is read."""
    rows: list[Tensor] = []
    for owner, words in zip(encoded.owners, encoded.meaning, strict=True):
        example = encoded.examples[owner]
        if example.answer is None:
            raise UserError(f"an example without tags: {example.text[:60]!r}")
        rows.append(torch.tensor([UNREAD if word is None else example.answer[word] for word in words]))
    return goals_of(rows)


def found_tags(logits: Tensor, encoded: Encoded, problem: Problem) -> list[list[Found]]:
    """Each example's words' likeliest tags."""
    found: list[list[Found]] = [[(None, 0.0)] * len(example.words or ()) for example in encoded.examples]
    best = logits.double().softmax(-1).max(-1)
    values, indices = best.values.tolist(), best.indices.tolist()
    for row, (owner, words) in enumerate(zip(encoded.owners, encoded.meaning, strict=True)):
        for place, word in enumerate(words):
            if word is not None:
                found[owner][word] = (problem.labels[indices[row][place]], values[row][place])
    return found


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The words, their tags, and by BIO or BIOES the entities with their characters [start, end) in the text."""
    kind = _schemes.scheme(problem.labels, problem.options.scheme)
    answers: list[dict[str, Any]] = []
    for example, found in zip(encoded.examples, found_tags(logits, encoded, problem), strict=True):
        spans = example.words or ()
        tags = [tag for tag, _ in found]
        answer: dict[str, Any] = {"text": example.text, "words": [example.text[s:e] for s, e in spans], "tags": tags}
        if kind != "plain":
            answer["tags"] = [tag or "O" for tag in tags]
            answer["entities"] = [
                {
                    "type": name,
                    "start": spans[first][0],
                    "end": spans[last][1],
                    "text": example.text[spans[first][0] : spans[last][1]],
                    "score": sum(score for _, score in found[first : last + 1]) / (last + 1 - first),
                }
                for name, first, last in _schemes.entities(answer["tags"])
            ]
        answers.append(answer)
    return answers


def right(example: Example, labels: Sequence[str]) -> list[str]:
    """The tags that the example has."""
    return [labels[int(place)] for place in example.answer]


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    plain = _schemes.scheme(problem.labels, problem.options.scheme) == "plain"
    return ("accuracy", "macro_f1", "loss") if plain else ("f1", "precision", "recall", "accuracy", "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """seqeval's precision, recall and F1 of entities and its accuracy of tags; of plain tags accuracy and macro-F1."""
    true, predicted = _compared(logits, encoded, problem)
    if measures(problem)[0] == "f1":
        return _tag_metrics.entity_metrics(true, predicted)
    return _tag_metrics.tag_metrics(true, predicted)


def shares(logits: Tensor, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: entity F1, or accuracy."""
    true, predicted = _compared(logits, encoded, problem)
    count = _tag_metrics.entity_shares if measures(problem)[0] == "f1" else _tag_metrics.tag_shares
    return [count(own, given) for own, given in zip(true, predicted, strict=True)]


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Precision, recall and F1 of each type of entity, or of each tag with the confusion matrix."""
    true, predicted = _compared(logits, encoded, problem)
    if measures(problem)[0] == "f1":
        return Details(_tag_metrics.by_type(true, predicted))
    return _tag_metrics.by_tag(true, predicted, problem.labels)


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem


def _compared(logits: Tensor, encoded: Encoded, problem: Problem) -> tuple[list[list[str]], list[list[str]]]:
    """The true and the predicted tags; a word that was not read is "O" among entities, else no label at all."""
    unread = "O" if measures(problem)[0] == "f1" else ""
    true = [[problem.labels[index] for index in example.answer] for example in encoded.examples]
    found = found_tags(logits, encoded, problem)
    return true, [[tag if tag is not None else unread for tag, _ in words] for words in found]
