"""Errors that a user can cause, and the sentence that names the nearest thing that would have worked."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

ADVICE = {
    errno.ENOSPC: "free some space, or name another folder",
    errno.EDQUOT: "free some space, or name another folder",
    errno.EFBIG: "the shell's limit (ulimit -f) is lower than that",
    errno.ENOENT: "it was removed or renamed meanwhile",
}


class UserError(Exception):
    """What was asked, what was found, what would work: one line, exit code 2, no traceback."""


class Unwritable(UserError):
    """A file or folder that cannot be written. `reason` is the system's own, `number` its errno."""

    def __init__(self, path: Path, reason: str, number: int | None = None):
        self.reason, self.number = reason, number
        advice = ADVICE.get(number or 0, "name a folder that can be written to")
        super().__init__(f"cannot write {path}: {reason[:1].lower()}{reason[1:]}; {advice}")


class Stopped(Exception):
    """A run that a signal asked to stop, and that did. `signal` is its number."""

    def __init__(self, text: str, signal: int):
        super().__init__(text)
        self.signal = signal


def check_whole(text: str, name: str) -> None:
    """Refuses a text with half a surrogate pair, which no tokenizer reads. `name` says whose text it is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name} holds half a surrogate pair at character {error.start + 1}") from None


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: names the nearest one, or lists the few there are."""
    names = sorted(map(str, known))
    lowered = {name.lower(): name for name in reversed(names)}
    near = get_close_matches(str(given).lower(), lowered, n=1, cutoff=0.5)
    if near:
        return UserError(f'no {kind} "{given}"; did you mean "{lowered[near[0]]}"?')
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return UserError(f'no {kind} "{given}"; there is {listed}' if names else f'no {kind} "{given}"; there is none here')
