"""How tags spell entities: BIO and BIOES, checked and mended; which words an entity takes is seqeval's rule."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from graftlm.core.errors import UserError

Scheme = Literal["bio", "bioes", "plain"]
LETTERS: dict[Scheme, str] = {"bio": "BI", "bioes": "BIES", "plain": ""}
SAID: dict[Scheme, str] = {"bio": "entities by BIO", "bioes": "entities by BIOES", "plain": "each a label by itself"}
Entity = tuple[str, int, int]  # its type, its first word and its last


def scheme(labels: Sequence[str], asked: str) -> Scheme:
    """The scheme that labels are written in; one that is asked for and does not fit them is an error."""
    if asked == "plain":
        return "plain"
    wanted: Scheme = "bioes" if asked == "auto" else asked  # pyright: ignore[reportAssignmentType]
    other = [label for label in labels if not fits(label, wanted)]
    if asked != "auto":
        if other:
            raise UserError(f'task.scheme = {asked}, but there is a tag "{other[0]}"; task.scheme = plain takes any')
        return asked  # pyright: ignore[reportReturnType]
    if other or set(labels) <= {"O"}:
        return "plain"
    return "bioes" if any(label[:2] in ("E-", "S-") for label in labels) else "bio"


def fits(tag: str, kind: Scheme) -> bool:
    """Whether a scheme has such a tag, wherever it stands."""
    return kind == "plain" or tag == "O" or re.fullmatch(rf"[{LETTERS[kind]}]-.+", tag) is not None


def of_tags(tags: Iterable[str], asked: str) -> Scheme:
    """The scheme that at least four of five tags but "O" are written in, "plain" without one; or the one asked for.

    It is BIOES where at least one of twenty ends an entity, so that a slip of the pen makes no scheme.
    """
    if asked != "auto":
        return asked  # pyright: ignore[reportReturnType]
    counts = Counter(tag[:2] if fits(tag, "bioes") else "" for tag in tags if tag != "O")
    fitting = counts.total() - counts[""]
    if not fitting or 5 * fitting < 4 * counts.total():
        return "plain"
    return "bioes" if 20 * (counts["E-"] + counts["S-"]) >= fitting else "bio"


def completed(labels: Sequence[str], kind: Scheme) -> tuple[str, ...]:
    """The labels with every letter for every type, "O" first: a type may have been seen with one letter only."""
    if kind == "plain":
        return tuple(sorted(labels))
    types = sorted({label[2:] for label in labels if label != "O"})
    return ("O", *(f"{letter}-{name}" for name in types for letter in LETTERS[kind]))


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags spell, well or badly, as seqeval's default reads them."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [(str(name), int(start), int(end)) for name, start, end in get_entities(list(tags))]


def spelled(found: Sequence[Entity], words: int, kind: Scheme) -> list[str]:
    """The tags of so many words with these entities."""
    tags = ["O"] * words
    for name, start, end in found:
        letters = ["B", *"I" * (end - start)]
        if kind == "bioes":
            letters[-1] = "E" if end > start else "S"
        tags[start : end + 1] = [f"{letter}-{name}" for letter in letters]
    return tags


def mended(tags: Sequence[str], kind: Scheme) -> list[str]:
    """The tags as the scheme would spell what they seem to mean; the same where nothing was wrong."""
    return list(tags) if kind == "plain" else spelled(entities(tags), len(tags), kind)
