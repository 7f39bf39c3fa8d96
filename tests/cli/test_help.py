"""Help is quick, imports nothing heavy, and shows an example that works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import graftlm
from graftlm.cli.main import code

COMMANDS = (
    "fit",
    "compare",
    "report",
    "evaluate",
    "predict",
    "merge",
    "export",
    "import",
    "template",
    "sites",
    "methods",
    "models",
)
HEAVY = ("torch", "transformers", "datasets", "sklearn", "pandas", "numpy", "accelerate")
LIGHT = [["--help"], *([name, "--help"] for name in COMMANDS), ["methods"], ["models"]]
PROGRAM = f"""
import sys
from graftlm.cli.main import code
assert code(sys.argv[1:]) == 0
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def _help(capfd: pytest.CaptureFixture[str], *command: str) -> str:
    capfd.readouterr()  # an earlier command may have shown an example of its own
    assert code([*command, "--help"]) == 0
    return capfd.readouterr().out


def _example(text: str) -> list[list[str]]:
    """The commands under "Example:", lines that end in a backslash joined."""
    part = re.search(r"Example:\n(.*?)(?:\n\n|$)", text, re.S)
    assert part is not None
    return [shlex.split(line) for line in part[1].replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"


def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        """Of the processor, which a busy machine does not stretch."""
        before = os.times()
        subprocess.run([sys.executable, "-m", "graftlm.cli.main", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


def test_no_arguments_show_the_help_of_all_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert code([]) == 0
    out = capfd.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert "..." not in out.split("Commands:")[1]


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_is_no_wider_than_a_terminal(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert [line for line in _help(capfd, *command).splitlines() if len(line) > 80] == []


def test_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    assert code(["--version"]) == 0
    assert capfd.readouterr().out == f"{graftlm.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example_of_its_command(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    examples = _example(_help(capfd, command))
    assert examples
    assert all(example[:2] == ["graftlm", command] for example in examples)


@pytest.mark.real
def test_the_examples_work_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first of each command in the order of the help, from the project's folder; only the steps of training are
    fewer. Where a command shows a second one, with a prompt, that is not run."""
    (tmp_path / "examples").symlink_to(Path(__file__).parents[2] / "examples")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        example = _example(_help(capfd, command))[0]
        training = command in ("fit", "compare")
        limits = ["-o", "training.max_steps=2", "-o", "data.limit={validation: 20, test: 20}"]
        fewer = limits if training else []
        assert code([*example[1:], *fewer]) == 0, capfd.readouterr().err
    assert Path("runs/tweets/adapter").is_dir()
    assert Path("runs/tweets-merged/config.json").exists()


@pytest.mark.parametrize(("typed", "found"), [("graftlm ev", "evaluate"), ("graftlm fit --prec", "--precision")])
def test_a_shell_completes_commands_and_options(
    typed: str, found: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert code(["--show-completion"]) == 0
    assert "_GRAFTLM_COMPLETE=complete_bash" in capfd.readouterr().out
    monkeypatch.setenv("_GRAFTLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert code([]) == 0
    assert capfd.readouterr().out.split() == [found]
