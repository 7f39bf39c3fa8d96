"""Words of several tokens asked for: at as many masks as a word has tokens, behind the text, or in the decoder."""

from collections.abc import Callable, Sequence

from torch import Tensor

from graftlm.prompts import Rule, Slots, slot_scores
from graftlm.tasks import Features

Words = Sequence[tuple[int, ...]]


def filled_scores(
    logits_of: Callable[[Sequence[Features]], Tensor],
    rows: Sequence[Features],
    words: Words,
    rule: Rule,
    kind: str,
    size: int,
) -> Tensor:
    """The log-probability (rows c) of each label's word in each row, for a model of one kind.

    `logits_of` gives the whole vocabulary's (b m v) at the rows' places, or where a decoder foresees their answers; it
    is asked for `size` rows at once.
    """
    made = {"masked": _trimmed, "causal": _written}.get(kind, _decoded)
    slots = [made(row, word) for row in rows for word in words]

    def foreseen(asked: Sequence[Slots]) -> Tensor:
        return logits_of(
            [Features(list(own.ids), _listed(own.types), list(own.places), list(own.word)) for own in asked]
        )

    return slot_scores(foreseen, slots, rule if kind == "masked" else "parallel", size).view(len(rows), len(words))


def _trimmed(row: Features, word: tuple[int, ...]) -> Slots:
    """The row without the masks that the word has no tokens for."""
    places = row.places or []
    spare = set(places[len(word) :])
    kept = [place for place in range(len(row.ids)) if place not in spare]
    types = None if row.types is None else tuple(row.types[place] for place in kept)
    return Slots(tuple(row.ids[place] for place in kept), tuple(places[: len(word)]), word, types)


def _written(row: Features, word: tuple[int, ...]) -> Slots:
    """The row with the word behind it: a causal model foresees each of its tokens with those before it in place."""
    last = len(row.ids) - 1
    types = None if row.types is None else (*row.types, *[0] * (len(word) - 1))
    return Slots((*row.ids, *word[:-1]), tuple(range(last, last + len(word))), word, types)


def _decoded(row: Features, word: tuple[int, ...]) -> Slots:
    """The row as it is: the decoder beside it foresees the word."""
    return Slots(tuple(row.ids), (*(row.places or (0,)),) * len(word), word, None)


def _listed(types: tuple[int, ...] | None) -> list[int] | None:
    return None if types is None else list(types)
