"""The command line. `ConsoleReporter` shows a job's progress; Python users may pass one to `graftlm.fit`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftlm.cli._console import ConsoleReporter, hush


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module graftlm.cli has no attribute {name!r}")
    from graftlm.cli import _console

    return getattr(_console, name)


__all__ = ["ConsoleReporter", "hush"]
