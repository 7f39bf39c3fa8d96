"""Every part of a text that answers a question, as tags of its tokens: outside, first of a span, inside.

Tags and not the best pairs of a start and an end: these tell neither which start belongs to which end nor how many
spans there are, and would need a threshold for that.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import spans
from graftlm.tasks._features import Encoded, Reading
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._token_loss import UNREAD, goals_of, token_loss
from graftlm.tasks._windows import Span

READS, HEAD, TUNES, SHOWN = "rows", "tokens", False, "answers"
LOWER_IS_BETTER = ("loss",)
loss = token_loss
OUTSIDE, FIRST, INSIDE = range(3)
Found = dict[Span, tuple[int, float]]  # by a token's characters its tag and the tag's probability
asked = spans.asked


class Options(Config):
    """`stride`: tokens that neighbouring windows have in common."""

    stride: PositiveInt = 128


def read(given: Given) -> TaskData:
    """Questions, contexts and answers, all of which are right together; [] is none. Two that overlap are an error."""
    data = spans.read(replace(given, labels=spans.KINDS))
    notes = list(data.notes)
    splits: dict[str, list[Example]] = {}
    for split, examples in data.splits.items():
        crossing = [example for example in examples if _crossing(example.answer)]
        if crossing and not given.config.skip_bad:
            raise UserError(
                f"{crossing[0].at}: two answers overlap, so no token says which it belongs to; where one "
                "answer of several is enough, --task spans takes them"
            )
        splits[split] = [example for example in examples if not _crossing(example.answer)]
        notes += [f"{len(crossing)} examples of {split} with answers that overlap are left out"] if crossing else []
    return TaskData(splits, spans.KINDS, True, tuple(notes))


def _crossing(answers: Sequence[Span]) -> bool:
    ordered = sorted(set(answers))
    return any(start < end for (_, end), (start, _) in pairwise(ordered))


def outputs(problem: Problem) -> int:
    """A tag of three for each token."""
    return 3


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """Rows of the question and a window of the context, as for single spans; a span may go over several windows."""
    loose = Reading(reading.tokenizer, reading.length, reading.causal)
    bare = [Example(each.text, each.text_pair) for each in examples]
    found = spans.encode(bare, loose, Problem("spans", options=spans.Options(stride=problem.options.stride)))
    return Encoded(examples, found.rows, found.owners, found.meaning, found.notes)


def goals(encoded: Encoded) -> Tensor:
    """Each token's tag (rows places), −100 where there is none."""
    right = {owner: set(spans.seen(encoded, owner)) for owner in encoded.windows}
    rows: list[Tensor] = []
    for owner, tokens in zip(encoded.owners, encoded.meaning, strict=True):
        tags = torch.tensor([UNREAD if span is None or span[0] == span[1] else OUTSIDE for span in tokens])
        for start, end in right[owner]:
            own = [place for place, span in enumerate(tokens) if span and max(start, span[0]) < min(end, span[1])]
            tags[own] = INSIDE
            if own and tokens[own[0]][0] <= start:
                tags[own[0]] = FIRST
        rows.append(tags)
    return goals_of(rows)


def _tags(logits: Tensor, encoded: Encoded, owner: int) -> Found:
    """The tag of each token of an example, from the window that shows most around it."""
    found: Found = {}
    context: dict[Span, tuple[float, int]] = {}
    windows = encoded.windows.get(owner, [])
    for number, row in enumerate(windows):
        tokens = encoded.meaning[row]
        best = logits[row].double().softmax(-1).max(-1)
        for place, span in enumerate(tokens):
            if span is None or span[0] == span[1]:
                continue
            before = place if number else float("inf")
            after = len(tokens) - place if number + 1 < len(windows) else float("inf")
            shown, where = context.get(span, (-1.0, -1))
            if where != number and min(before, after) > shown:  # an emoji may be several tokens; its first one is read
                context[span] = (min(before, after), number)
                found[span] = (int(best.indices[place]), float(best.values[place]))
    return found


def _spans(found: Found) -> list[tuple[int, int, float]]:
    """The spans that tags spell, by their characters, with the mean probability of their tags."""
    spelled: list[tuple[int, int, list[float]]] = []
    inside = False
    for (start, end), (tag, score) in sorted(found.items()):
        if tag == INSIDE and inside:
            first, last, scores = spelled[-1]
            spelled[-1] = (first, max(last, end), [*scores, score])
        elif tag != OUTSIDE:
            spelled.append((start, end, [score]))
        inside = tag != OUTSIDE
    return [(start, end, sum(scores) / len(scores)) for start, end, scores in spelled]


def decode(logits: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The answers in their order, with their characters [start, end) in the context."""
    return [
        {
            "answers": [
                {"answer": (example.text_pair or "")[start:end], "start": start, "end": end, "score": score}
                for start, end, score in _spans(_tags(logits, encoded, owner))
            ]
        }
        for owner, example in enumerate(encoded.examples)
    ]


def right(example: Example, labels: Sequence[str]) -> list[str]:
    """The answers that the example has."""
    return [(example.text_pair or "")[start:end] for start, end in example.answer]


def _compared(logits: Tensor, encoded: Encoded, problem: Problem) -> tuple[list[set[Span]], list[set[Span]]]:
    """The given and the right spans of each example, by the characters that tokens are of."""
    given = [{(each["start"], each["end"]) for each in row["answers"]} for row in decode(logits, encoded, problem)]
    return given, [set(spans.seen(encoded, owner)) for owner in range(len(encoded.examples))]


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("f1", "precision", "recall", "exact_match", "loss")


def metrics(logits: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """Precision, recall and F1 of whole spans over all examples, and the share of examples with just the right ones."""
    given, right = _compared(logits, encoded, problem)
    hits = sum(len(own & true) for own, true in zip(given, right, strict=True))
    precision, recall = hits / max(1, sum(map(len, given))), hits / max(1, sum(map(len, right)))
    return {
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "precision": precision,
        "recall": recall,
        "exact_match": sum(own == true for own, true in zip(given, right, strict=True)) / max(1, len(right)),
    }


def shares(logits: Tensor, encoded: Encoded, problem: Problem) -> list[tuple[float, float]]:
    """What each example adds to the two sides of the fraction that the first metric is: F1 of whole spans."""
    given, right = _compared(logits, encoded, problem)
    return [(2.0 * len(own & true), float(len(own) + len(true))) for own, true in zip(given, right, strict=True)]


def details(logits: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: a span has no classes."""
    return Details()


def tuned(logits: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem
