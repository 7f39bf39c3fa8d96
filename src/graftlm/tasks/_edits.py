"""Edits of words, so written that one fits many: "1$ →'" puts an apostrophe before the last letter, in any word.

An edit is anchored at the nearer end of the word: "^2 ei→ie" replaces what stands behind two letters, "1$ …" what
stands before the last one. An arrow and a backslash in what is replaced have a backslash in front.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

KEEP = "="
EDIT = re.compile(r"(?:\^(\d+)|(\d+)\$) ((?:[^\\→]|\\.)*)→(.*)", re.DOTALL)


def edit(wrong: str, right: str) -> str:
    """What makes the one word of the other; an empty right one deletes the word."""
    if wrong == right:
        return KEEP
    most = min(len(wrong), len(right))
    before = next((place for place in range(most) if wrong[place] != right[place]), most)
    most -= before
    after = next((place for place in range(most) if wrong[-1 - place] != right[-1 - place]), most)
    old = re.sub(r"[\\→]", r"\\\g<0>", wrong[before : len(wrong) - after])
    changed = f"{old}→{right[before : len(right) - after]}"
    return f"^{before} {changed}" if before <= after else f"{after}$ {changed}"


def edited(word: str, name: str) -> str:
    """The word with an edit made, or as it is where the edit does not fit it."""
    found = EDIT.fullmatch(name)
    if found is None:
        return word
    before, after, old, new = found.groups()
    old = re.sub(r"\\(.)", r"\1", old, flags=re.DOTALL)
    start = int(before) if before is not None else len(word) - int(after) - len(old)
    if start < 0 or word[start : start + len(old)] != old or start + len(old) > len(word):
        return word
    return word[:start] + new + word[start + len(old) :]


def aligned(wrong: Sequence[str], right: Sequence[str]) -> list[str]:
    """What each wrong word becomes: the word at its place where there are as many, else by the longest common parts.

    A word may become several, joined by spaces, or none.
    """
    if len(wrong) == len(right):
        return list(right)
    out = list(wrong)
    for kind, first, last, start, stop in SequenceMatcher(None, wrong, right, autojunk=False).get_opcodes():
        new = list(right[start:stop])
        if kind == "insert" and first:
            out[first - 1] = " ".join([out[first - 1], *new])
        elif kind == "insert":
            out[0] = " ".join([*new, out[0]])
        elif kind != "equal":
            size = last - first
            parts = [*new[: size - 1], " ".join(new[size - 1 :])] if len(new) >= size else [*new]
            out[first:last] = parts + [""] * (size - len(parts))
    return out
