"""The part of a text that answers a question: long texts in overlapping windows, the best span over all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _rows, _squad
from graftlm.tasks._answers import answers
from graftlm.tasks._features import Encoded, Features, Reading
from graftlm.tasks._read import Table, shown
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._windows import Span, questioned

READS, HEAD, TUNES, SHOWN = "rows", "tokens", True, "answer"
LOWER_IS_BETTER = ("loss",)
COLUMNS = {
    "context": ("context", "passage", "paragraph", "document"),
    "question": ("question", "query"),
    "answers": ("answers", "answer"),
}
KINDS = ("span", "none")  # what an answer can be; the labels of a run
UNREAD = -100  # the goal of a row that nothing is learned from


class Options(Config):
    """`stride`: tokens that neighbouring windows have in common. `longest`: tokens of the longest answer. `best`: how
    many answers are given. `threshold`: by how much having no answer must beat the best answer; null tunes it on
    validation, where the training data has questions without an answer.
    """

    stride: PositiveInt = 128
    longest: PositiveInt = 30
    best: PositiveInt = 5
    threshold: float | None = None


@dataclass(frozen=True)
class Candidate:
    """An answer: its characters [start, end) in the context, and its logits' sum."""

    start: int
    end: int
    score: float


def read(given: Given) -> TaskData:
    """Questions, contexts and answers; the labels say whether a question of train may have none."""
    found = _rows.columns(given.first, given.config.columns, COLUMNS)
    for table in given.tables.values():
        for ours in COLUMNS:
            _rows.has(table, found[ours])
    learned = "train" if "train" in given.cut else next(iter(given.cut))
    kinds: Sequence[str] = given.labels if given.labels is not None else KINDS
    splits: dict[str, list[Example]] = {}
    notes = [_rows.said(found)]
    for split in (learned, *(other for other in given.cut if other != learned)):
        table = given.cut[split]

        def row_of(row: int, table: Table = table, kinds: Sequence[str] = kinds) -> Example:
            example = _answered(table, row, found)
            if "none" not in kinds and not example.answer:
                raise UserError(f"{example.at}: no answer, but the run was trained on questions that all have one")
            return example

        splits[split], left_out = _rows.kept(table, row_of, given.config.skip_bad)
        notes += left_out
        if given.labels is None and split == learned:
            kinds = KINDS if any(not example.answer for example in splits[split]) else KINDS[:1]
    none = sum(not example.answer for example in splits[learned])
    notes += [f"{none} of {len(splits[learned])} questions have no answer"] if none else []
    return TaskData({split: splits[split] for split in given.cut}, tuple(kinds), True, tuple(notes))


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The questions and contexts; answers are not needed."""
    found = _rows.columns(table, given, COLUMNS, optional=("answers",))
    return [_asked(table, row, found) for row in range(len(table))]


def _asked(table: Table, row: int, found: Mapping[str, str]) -> Example:
    at = table.at(row)
    question, context = (
        _rows.text(table.columns[found[ours]][row], at, found[ours]) for ours in ("question", "context")
    )
    if not context.strip():
        raise UserError(f"{at}: {found['context']} is blank")
    return Example(question, context, id=_rows.identity(table, row, found.get("id")), at=at)


def _answered(table: Table, row: int, found: Mapping[str, str]) -> Example:
    example, column = _asked(table, row, found), found["answers"]
    return replace(example, answer=answers(table.columns[column][row], example.text_pair or "", example.at, column))


def outputs(problem: Problem) -> int:
    """A token's logits as an answer's first one and as its last."""
    return 2


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """Rows of the question and a window of the context. A row's first place is a special token, for no answer.

    An answer that lies whole in no window is an error where `reading` is strict, else nothing is learned from it.
    """
    options: Options = problem.options
    found, long = questioned([(each.text, each.text_pair or "") for each in examples], reading, options.stride)
    rows = [
        Features(window.features.ids, window.features.types, [window.special[0], *window.places]) for window in found
    ]
    encoded = Encoded(examples, rows, [window.owner for window in found], [[None, *window.spans] for window in found])
    lost = [example for owner, example in enumerate(examples) if example.answer and not _held(encoded, owner)]
    if lost and reading.strict:
        start, end = lost[0].answer[0]
        raise UserError(
            f"{lost[0].at}: the answer {shown((lost[0].text_pair or '')[start:end])} lies whole in no window; a larger "
            "max_length or task.stride would hold it, and --skip-bad leaves such questions out"
        )
    parts = sum(len(own) > 1 for own in encoded.windows.values())
    notes = [f"{parts} contexts are longer than {reading.length} tokens and are read in windows"] if parts else []
    notes += [f"{long} questions are longer than half of {reading.length} tokens and were cut"] if long else []
    wrong = "" if reading.learned else ", and count as wrong"
    notes += [f"{len(lost)} answers lie whole in no window{wrong}"] if lost else []
    return Encoded(examples, rows, encoded.owners, encoded.meaning, tuple(notes))


def seen(encoded: Encoded, owner: int) -> list[Span]:
    """The answers of an example from their first to their last character that a token is of, if there is one."""
    example = encoded.examples[owner]
    if example.answer is None:
        raise UserError(f"a question without answers: {example.text[:60]!r}")
    tokens = {span for row in encoded.windows.get(owner, ()) for span in encoded.meaning[row] if span is not None}
    found: list[Span] = []
    for start, end in example.answer:
        own = [(max(start, first), min(end, last)) for first, last in tokens if max(start, first) < min(end, last)]
        found.append((min(first for first, _ in own), max(last for _, last in own)) if own else (start, end))
    return found


def _held(encoded: Encoded, owner: int) -> dict[int, tuple[int, int]]:
    """The rows of an example that hold an answer whole, with the places of its first and its last token."""
    answers = seen(encoded, owner)
    found = {row: _places(encoded.meaning[row], answers) for row in encoded.windows[owner]}
    return {row: places for row, places in found.items() if places is not None}


def _places(meaning: Sequence[Span | None], answers: Sequence[Span]) -> tuple[int, int] | None:
    """The places of the first and last token of the first answer that a row holds whole; None if it holds none."""
    tokens = [(place, span) for place, span in enumerate(meaning) if span is not None and span[0] < span[1]]
    for start, end in answers:
        own = [place for place, span in tokens if span[0] < end and start < span[1]]
        if own and tokens[0][1][0] <= start and end <= tokens[-1][1][1]:
            return own[0], own[-1]
    return None


def goals(encoded: Encoded) -> Tensor:
    """The places (rows 2) of an answer's first and last token, 0 where a row holds none, −100 where no row does."""
    held = {owner: _held(encoded, owner) for owner in encoded.windows}
    rows: list[tuple[int, int]] = []
    for row, owner in enumerate(encoded.owners):
        unread = encoded.examples[owner].answer and not held[owner]
        rows.append(held[owner].get(row, (UNREAD, UNREAD) if unread else (0, 0)))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 2)


def loss(logits: Tensor, goals: Tensor) -> Tensor:
    """logits (b w 2), goals (b 2) -> (b): the mean of the start's and the end's."""
    return functional.cross_entropy(logits, goals, ignore_index=UNREAD, reduction="none").mean(1)


def _candidates(logits: Tensor, encoded: Encoded, options: Options) -> list[tuple[list[Candidate], float]]:
    """For each example the best spans over its windows, best first, and the least score of no answer in any window."""
    found: list[tuple[list[Candidate], float]] = []
    for owner in range(len(encoded.examples)):
        best: dict[Span, float] = {}
        none = float("inf")
        for row in encoded.windows.get(owner, ()):
            none = min(none, float(logits[row, 0].sum()))
            for candidate in _in_window(logits[row], encoded.meaning[row], options):
                span = (candidate.start, candidate.end)
                best[span] = max(best.get(span, -torch.inf), candidate.score)
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[: options.best]
        found.append(([Candidate(*span, score) for span, score in ranked], none))
    return found


def _in_window(logits: Tensor, meaning: Sequence[Span | None], options: Options) -> list[Candidate]:
    """logits (w 2) -> the best spans of one window, at most `options.longest` tokens long."""
    places = [place for place, span in enumerate(meaning) if span is not None and span[0] < span[1]]
    if not places:
        return []
    scores = logits[places].double().nan_to_num(nan=-1e30)  # w 2
    pairs = scores[:, None, 0] + scores[None, :, 1]  # starts ends
    allowed = torch.ones_like(pairs, dtype=torch.bool).triu().tril(options.longest - 1)
    flat = pairs.masked_fill(~allowed, -torch.inf).flatten()
    edges = [span for span in meaning if span is not None and span[0] < span[1]]
    starts, ends = Counter(start for start, _ in edges), Counter(end for _, end in edges)
    alike = max(starts.values()) * max(ends.values())  # a letter may be several tokens, and a span so many pairs
    top = flat.topk(min(options.best * alike, int(allowed.sum())))
    chosen: dict[Span, float] = {}
    for score, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        first, last = divmod(index, len(places))
        chosen.setdefault((edges[first][0], edges[last][1]), score)
    return [Candidate(*span, score) for span, score in chosen.items()][: options.best]


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The best answer with its characters [start, end) in the context, and the next ones; "" where there is none.

    Scores are shares of probability among the answers that are listed, and of none where that is an answer.
    """
    options: Options = problem.options
    said: list[dict[str, Any]] = []
    for example, (best, none) in zip(encoded.examples, _candidates(logits, encoded, options), strict=True):
        context = example.text_pair or ""
        scores = [candidate.score for candidate in best] + ([none] if "none" in problem.labels else [])
        shares = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
        listed = [
            {"answer": context[each.start : each.end], "start": each.start, "end": each.end, "score": share}
            for each, share in zip(best, shares, strict=False)
        ]
        nothing = {"answer": "", "start": None, "end": None, "score": shares[-1] if shares else 1.0}
        empty = not best or _none(best, none, problem)
        said.append({**(nothing if empty else listed[0]), "best": listed})
    return said


def _none(best: Sequence[Candidate], none: float, problem: Problem) -> bool:
    asked = problem.options.threshold
    threshold = asked if asked is not None else problem.tuned.get("threshold", 0.0)
    return "none" in problem.labels and none - best[0].score > threshold


def right(example: Example, labels: Sequence[str]) -> tuple[str, ...]:
    """The answers that the example takes, each of them right; "" where it has none."""
    return tuple(dict.fromkeys(_right(example))) or ("",)


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("f1", "exact_match", *(("answered_f1", "none_accuracy") if "none" in problem.labels else ()), "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """F1 and exact match by SQuAD's rules, from 0 to 1; where questions may have no answer, each side of them too."""
    given = [answer["answer"] for answer in decode(logits, encoded, problem)]
    right = [_right(example) for example in encoded.examples]
    f1 = [_squad.f1(answer, own) for answer, own in zip(given, right, strict=True)]
    exact = [_squad.exact(answer, own) for answer, own in zip(given, right, strict=True)]
    found = {"f1": _mean(f1), "exact_match": _mean(exact)}
    if "none" in problem.labels:
        found["answered_f1"] = _mean([score for score, own in zip(f1, right, strict=True) if own])
        found["none_accuracy"] = _mean([score for score, own in zip(exact, right, strict=True) if not own])
    return found


def shares(logits: Tensor, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: the mean F1."""
    given = [answer["answer"] for answer in decode(logits, encoded, problem)]
    return [(_squad.f1(own, _right(example)), 1.0) for own, example in zip(given, encoded.examples, strict=True)]


def _right(example: Example) -> list[str]:
    return [(example.text_pair or "")[start:end] for start, end in example.answer]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / max(1, len(scores))


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: a span has no classes."""
    return Details()


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """The problem with the threshold of no answer that gives the best F1; as it is where a question always has one."""
    if "none" not in problem.labels:
        return problem
    sides: list[tuple[float, float]] = []
    for example, (best, none) in zip(encoded.examples, _candidates(logits, encoded, problem.options), strict=True):
        if not best:
            continue
        right, context = _right(example), example.text_pair or ""
        gain = _squad.f1(context[best[0].start : best[0].end], right) - _squad.f1("", right)
        sides.append((none - best[0].score, gain))
    if not sides:
        return problem
    sides.sort()
    gains = [0.0]
    for _, gain in sides:
        gains.append(gains[-1] + gain)
    answered = max(range(len(gains)), key=lambda count: (gains[count], -abs(count - len(sides) / 2)))
    edges = [sides[0][0] - 2.0, *(margin for margin, _ in sides), sides[-1][0] + 2.0]
    return replace(problem, tuned={"threshold": (edges[answered] + edges[answered + 1]) / 2})
