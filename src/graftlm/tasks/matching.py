"""Texts that belong together: both sides as vectors, so that a query finds its document among many.

With unit vectors q and d, temperature τ and the documents of a batch, query i's loss is
−log exp(q_i · d_i / τ) / Σ_j exp(q_i · d_j / τ) (Henderson et al., 2017, arXiv:1705.00652; van den Oord et al., 2018,
arXiv:1807.03748). Every other document of the batch is a negative, but for one with the same text as the query's own,
which we leave out. The rows of other runs are never among them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.nn import functional

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _rows
from graftlm.tasks._features import Encoded, Features, Reading
from graftlm.tasks._features import encode as features_of
from graftlm.tasks._read import Table
from graftlm.tasks._task import Details, Given, Problem, TaskData

READS, HEAD, TUNES = "rows", "vectors", False
LOWER_IS_BETTER = ("loss",)
COLUMNS = {
    "query": ("query", "question", "anchor", "sentence1", "premise", "text"),
    "document": ("document", "passage", "context", "answer", "positive", "sentence2", "hypothesis", "text_pair"),
    "negatives": ("negatives", "hard_negatives", "negative"),
}
DEPTHS = (1, 5, 10)
BLOCK = 1024  # queries that are compared with all documents at once
ABSENT = -1


class Options(Config):
    """`temperature`: τ. `negatives`: how many of a row's own documents that do not belong to its query are taken."""

    temperature: PositiveFloat = 0.05
    negatives: NonNegativeInt = 0


def read(given: Given) -> TaskData:
    """Rows of a query and its document, and by option a list of others that are not."""
    wanted: int = given.problem.options.negatives
    optional = () if wanted else ("negatives",)
    found = _rows.columns(given.first, given.config.columns, COLUMNS, optional=optional)
    for theirs in given.config.columns.values():
        _rows.has(given.first, theirs)
    if not wanted and given.labels is None and "negatives" in given.config.columns:
        raise UserError(
            f"columns maps negatives={found['negatives']}, but no negatives are taken; -o task.negatives=N takes the "
            "first N of a row"
        )
    for table in given.tables.values():
        for ours in ("query", "document", *(("negatives",) if wanted else ())):
            _rows.has(table, found[ours])
    notes = [_rows.said({ours: theirs for ours, theirs in found.items() if wanted or ours != "negatives"})]
    splits: dict[str, list[Example]] = {}
    for split, table in given.cut.items():

        def row_of(row: int, table: Table = table) -> Example:
            return _example(table, row, found, wanted)

        splits[split], left_out = _rows.kept(table, row_of, given.config.skip_bad)
        notes += left_out
    return TaskData(splits, (), False, tuple(notes))


def _example(table: Table, row: int, found: Mapping[str, str], wanted: int) -> Example:
    at = table.at(row)
    query, document = (_text(table.columns[found[ours]][row], at, found[ours]) for ours in ("query", "document"))
    others: list[str] = []
    if wanted:
        column = found["negatives"]
        cell = _rows.listed(table.columns[column][row])
        one = isinstance(cell, str)
        others = [_text(cell, at, column)] if one else _rows.strings(cell, at, column)[:wanted]
    return Example(query, id=_rows.identity(table, row, found.get("id")), at=at, answer=(document, *others))


def _text(value: Any, at: str, column: str) -> str:
    found = _rows.text(value, at, column)
    if not found.strip():
        raise UserError(f"{at}: {column} is blank")
    return found


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """The queries; documents are not needed."""
    return _side(table, _rows.columns(table, given, COLUMNS, optional=("document", "negatives")), "query")


def candidates(table: Table, given: Mapping[str, str], stored: bool) -> list[Example]:
    """The documents that queries are to find, in the column that `given` or their usual names say, or of texts."""
    needed = {"id": False, "document": not stored}
    known = {
        ours: theirs for ours, theirs in given.items() if ours in needed and (needed[ours] or theirs in table.columns)
    }
    return _side(table, _rows.columns(table, known, {"document": (*COLUMNS["document"], "text")}), "document")


def _side(table: Table, found: Mapping[str, str], side: str) -> list[Example]:
    return [
        Example(
            _text(table.columns[found[side]][row], table.at(row), found[side]),
            id=_rows.identity(table, row, found.get("id")),
            at=table.at(row),
        )
        for row in range(len(table))
    ]


def outputs(problem: Problem) -> int:
    """None of its own: a text's vector is as wide as the model."""
    return 0


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """A query a row, with its document and its negatives as `others`."""
    texts = list(dict.fromkeys(text for example in examples for text in (example.text, *(example.answer or ()))))
    found, cut = features_of([Example(text) for text in texts], reading.tokenizer, reading.length)
    known = dict(zip(texts, found, strict=True))
    rows = [
        Features(
            known[example.text].ids,
            known[example.text].types,
            others=tuple(known[text] for text in example.answer or ()),
        )
        for example in examples
    ]
    notes = (f"{cut} texts are longer than {reading.length} tokens and were cut",) if cut else ()
    return Encoded(examples, rows, range(len(rows)), notes=notes)


def goals(encoded: Encoded) -> Tensor:
    """Which text each document is (rows documents), its own first; −1 where a row has no more."""
    bare = next((example for example in encoded.examples if not example.answer), None)
    if bare is not None:
        raise UserError(f"a query without a document: {bare.text[:60]!r}")
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(text, len(numbers)) for text in example.answer] for example in encoded.examples]
    most = max(map(len, rows), default=0)
    return torch.tensor([row + [ABSENT] * (most - len(row)) for row in rows], dtype=torch.long).reshape(-1, most)


def loss(vectors: Tensor, goals: Tensor, options: Options) -> Tensor:
    """vectors (b 1 + s d), a query and its documents, goals (b s') -> (b)."""
    size = min(vectors.shape[1] - 1, goals.shape[1])
    documents, names = vectors[:, 1 : size + 1].flatten(0, 1), goals[:, :size]
    own = torch.arange(len(vectors), device=vectors.device) * size  # where each query's own document stands
    found: list[Tensor] = []
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, start + BLOCK)
        scores = vectors[part, 0] @ documents.T / options.temperature  # b b·s
        same = names.flatten()[None] == names[part, :1]
        same[torch.arange(len(scores), device=scores.device), own[part]] = False
        scores = scores.masked_fill(same | (names.flatten() == ABSENT)[None], -torch.inf)
        found.append(functional.cross_entropy(scores, own[part], reduction="none"))
    return torch.cat(found) if found else vectors.new_zeros(0)


def decode(vectors: Tensor, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The vector of each text, of length 1."""
    return [{"vector": row} for row in vectors[:, 0].tolist()]


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is chosen by first."""
    return ("mrr@10", *(f"recall@{depth}" for depth in DEPTHS), "loss")


def metrics(vectors: Tensor, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """The mean reciprocal rank of a query's first document, 0 below rank 10, and the share of its documents above each
    depth, among all documents of the split. What scores the same as a wrong document stands behind it.
    """
    names = goals(encoded)
    present = names != ABSENT
    flat, where = names[present], vectors[:, 1:][present]
    order = {name: place for place, name in reversed(list(enumerate(flat.tolist())))}
    documents = where[[order[name] for name in range(len(order))]]  # a text once
    right: dict[str, set[int]] = {}
    for example, row in zip(encoded.examples, names.tolist(), strict=True):
        right.setdefault(example.text, set()).add(row[0])
    firsts = {example.text: place for place, example in reversed(list(enumerate(encoded.examples)))}
    ranks = {text: _ranks(vectors[firsts[text], 0] @ documents.T, sorted(own)) for text, own in right.items()}
    each = [ranks[example.text] for example in encoded.examples]
    found = {"mrr@10": _mean([1 / own[0] if own[0] <= DEPTHS[-1] else 0.0 for own in each])}
    return found | {
        f"recall@{depth}": _mean([sum(rank <= depth for rank in own) / len(own) for own in each]) for depth in DEPTHS
    }


def _ranks(scores: Tensor, right: Sequence[int]) -> list[int]:
    """The ranks of the right ones among scores (documents), best first; one that is no number comes last."""
    scores = scores.nan_to_num(nan=-torch.inf)
    own = scores[list(right)].sort(descending=True).values
    wrong = torch.ones(len(scores), dtype=torch.bool)
    wrong[list(right)] = False
    return [place + 1 + int((scores[wrong] >= score).sum()) for place, score in enumerate(own)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def details(vectors: Tensor, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: a match has no classes."""
    return Details()


def tuned(vectors: Tensor, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem
