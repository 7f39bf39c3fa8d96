"""A command line that was run in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """What a command left on the screen, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]
