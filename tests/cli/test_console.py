"""What the reporter shows on a terminal, elsewhere, and when it is quiet."""

import io

import pytest
from rich.console import Console

from graftlm.cli import ConsoleReporter, _console


def _on_a_terminal(width: int = 120) -> ConsoleReporter:
    reporter = ConsoleReporter()
    for name in ("out", "err"):
        screen = Console(
            file=io.StringIO(), force_terminal=True, width=width, highlight=False, markup=False, emoji=False
        )
        setattr(reporter, name, screen)
    return reporter


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_warning_that_holds_for_many_runs_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(quiet=True)
    for text in ("slow", "slow", "short", "slow"):
        reporter.warn(text)
    assert capfd.readouterr().err == "warning: slow\nwarning: short\n"


def test_a_table_off_a_terminal_is_aligned_text(capfd: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter().table("things", ["name", "count", "kind"], [["日本", "7", "[b]x"], ["apple", "1,000", ":smile:"]])
    assert capfd.readouterr().out == "things\nname   count  kind\n日本       7  [b]x\napple  1,000  :smile:\n\n"


def test_a_table_without_rows_or_names_shows_what_there_is(capfd: pytest.CaptureFixture[str]) -> None:
    ConsoleReporter().table("none", ["name"], [])
    ConsoleReporter().table("metrics", ["", ""], [["accuracy", "0.5"]])
    assert capfd.readouterr().out == "none\nname\n\nmetrics\naccuracy  0.5\n\n"


def test_a_table_on_a_terminal_keeps_every_character() -> None:
    reporter = _on_a_terminal()
    reporter.table("things", ["name", "count"], [["[bold]:smile:", "7"]])
    assert "[bold]:smile:" in _shown(reporter.out)


def test_long_lines_are_not_broken_and_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter()
    reporter.line("word " * 60)
    reporter.warn("[red]" * 60)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "word " * 60 + "\nwarning: " + "[red]" * 60 + "\n")


def test_progress_off_a_terminal_is_a_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "EVERY", 0.0)
    monkeypatch.setattr(_console, "SHORT", 0.0)
    with ConsoleReporter().progress("fit", 2) as bar:
        bar.advance(loss=0.25, examples=8)
        bar.advance(loss=0.125, accuracy=1.0, examples=8)
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("fit: 1/2 steps, loss 0.25, ")
    assert first.endswith(" s left")
    assert "examples/s" in first
    assert second.startswith("fit: 2/2 steps, loss 0.125, accuracy 1, ")


def test_short_progress_leaves_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter().progress("predict", None, unit="examples") as bar:
        bar.advance(5)
    assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar() -> None:
    reporter = _on_a_terminal()
    with reporter.progress("fit", 3) as bar:
        bar.advance(3, loss=0.5, note="[x]", examples=24)
    shown = _shown(reporter.err)
    assert all(part in shown for part in ("fit", "3/3", "loss 0.5", "note [x]", "examples/s"))


def test_quiet_leaves_results_and_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(quiet=True)
    reporter.line("a note")
    reporter.warn("a warning")
    with reporter.progress("fit", 1) as bar:
        bar.advance()
    reporter.table("result", ["name"], [["a"]])
    assert capfd.readouterr() == ("result\nname\na\n\n", "warning: a warning\n")
