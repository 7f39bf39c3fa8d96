"""Words of several tokens asked for: rows with as many masks as each label's word has tokens, filled by a rule."""

from collections.abc import Callable, Sequence

from torch import Tensor

from graftlm.prompts import Rule, Slots, slot_scores
from graftlm.tasks import Features

Words = Sequence[tuple[int, ...]]


def filled_scores(
    logits_of: Callable[[Sequence[Features]], Tensor], rows: Sequence[Features], words: Words, rule: Rule, causal: bool
) -> Tensor:
    """The log-probability (rows c) of each label's word in each row.

    `logits_of` gives the whole vocabulary's (b m v) at the rows' places.
    """
    slots = [_written(row, word) if causal else _trimmed(row, word) for row in rows for word in words]

    def foreseen(asked: Sequence[Slots]) -> Tensor:
        return logits_of([Features(list(own.ids), _listed(own.types), list(own.places)) for own in asked])

    return slot_scores(foreseen, slots, "parallel" if causal else rule).view(len(rows), len(words))


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


def _listed(types: tuple[int, ...] | None) -> list[int] | None:
    return None if types is None else list(types)
