"""Errors that a user can cause, and the sentence that names the nearest thing that would have worked."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was asked, what was found, what would work: one line, exit code 2, no traceback."""


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: names the nearest one, or lists the few there are."""
    names = sorted(map(str, known))
    near = get_close_matches(str(given), names, n=1, cutoff=0.5)
    if near:
        return UserError(f'no {kind} "{given}"; did you mean "{near[0]}"?')
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return UserError(f'no {kind} "{given}"; there is {listed}' if names else f'no {kind} "{given}"; there is none here')
