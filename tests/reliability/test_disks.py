"""Disks that are full, folders that cannot be written or are gone, two processes on one: one line, and no loss."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm.core.lock import Lock
from graftlm.recipes._history import History
from reliability.commands import Commands, wait_for
from reliability.runs import Killed, Killing, command, left, options


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


# run.json, a checkpoint or the adapter is the first file that is too large
@pytest.mark.parametrize(("limit", "named"), [(100, "run.json"), (6000, "checkpoint-1"), (20_000, "adapter")])
def test_a_write_that_fails_is_one_line_and_what_was_there_before_is_whole(
    limit: int, named: str, commands: Commands, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training = {"save_steps": None} if named == "adapter" else {}
    start = command(world, "full", out, **training)
    code, said = commands(*start, limit=limit)
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith(f"error: cannot write {out / named}: file too large; the shell's limit")
    if named == "run.json":
        assert not out.exists()
        return
    assert said.endswith(f"; then go on with: graftlm fit --resume {out}\n")
    assert not list(out.glob(".*.partial"))
    code, said = commands("fit", "--resume", out, "--quiet")
    assert code == 0, said
    assert commands(*command(world, "full", tmp_path / "whole", **training))[0] == 0
    assert left(out) == left(tmp_path / "whole")


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_run_goes_on_from_it(
    commands: Commands, world: Path, tmp_path: Path, small: Path
) -> None:
    assert commands(*command(world, "full", tmp_path / "whole", keep_checkpoints=9))[0] == 0
    start = command(world, "full", tmp_path / "run", keep_checkpoints=9)
    values = json.loads(Path(start[1]).read_text())
    Path(start[1]).write_text(json.dumps({**values, "out": str(small / "run")}))
    code, said = commands(*start)
    assert (code, said.count("\n")) == (2, 1), said
    assert "no space left on device; free some space, or name another folder; then go on with: graftlm" in said
    name = json.loads((small / "run/checkpoint.json").read_text())["checkpoint"]
    assert json.loads((small / "run" / name / "state.json").read_text())["step"] > 0
    shutil.copytree(small / "run", tmp_path / "run")
    code, said = commands("fit", "--resume", tmp_path / "run", "--quiet")
    assert code == 0, said
    assert left(tmp_path / "run")["weights"] == left(tmp_path / "whole")["weights"]


def test_a_line_of_history_that_does_not_fit_leaves_no_half(small: Path) -> None:
    rows: list[dict[str, Any]] = []

    def fill(history: History) -> None:
        while True:
            row = {"step": len(rows), "text": "x" * 100}
            history.write(row)
            rows.append(row)

    with History(small / "history.jsonl") as history, pytest.raises(graftlm.UserError, match=r"cannot write .*history"):
        fill(history)
    assert [json.loads(line) for line in (small / "history.jsonl").read_text().splitlines()] == rows


@pytest.mark.parametrize("out", ["/proc/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_made_is_named(out: str, world: Path) -> None:
    with pytest.raises(graftlm.UserError, match=f"cannot write {out}: .*; "):
        graftlm.fit(**options(world, "head", Path(out)))


def test_a_folder_that_is_removed_while_running_is_named_and_not_made_again(world: Path, tmp_path: Path) -> None:
    class Removing(Killing):
        def advance(self, steps: int = 1, **numbers: float | str) -> None:
            self.steps -= 1
            if self.steps == 0:
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(graftlm.UserError, match=r"run was removed or replaced while the run was writing to it"):
        graftlm.fit(**options(world, "head", tmp_path / "run"), reporter=Removing(3))
    assert not (tmp_path / "run").exists()


def test_a_second_process_on_the_folder_is_refused_and_a_dead_ones_lock_is_gone(
    commands: Commands, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = commands.start(*command(world, "head", out, max_steps=10**6, patience=0, save_steps=1))
    wait_for((out / "checkpoint.json").exists)
    values = options(world, "head", out)
    for again in ({**values, "overwrite": True}, {"resume": out}):
        with pytest.raises(graftlm.UserError, match=f"run is being written by process {process} on .*; wait for it"):
            graftlm.fit(**again)
    os.kill(process, 9)
    commands.end()
    Lock(out).close()


def test_two_runs_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    with (
        Lock(tmp_path),
        pytest.raises(graftlm.UserError, match=f"{tmp_path} is being written by process {os.getpid()}"),
    ):
        Lock(tmp_path)
    with Lock(tmp_path) as lock:
        lock.check()
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_half_written_is_swept_away(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        graftlm.fit(**options(world, "head", out), reporter=Killing(4))
    (out / ".checkpoint-4.abc.partial").mkdir()
    (out / ".checkpoint-4.abc.partial/state.safetensors").write_text("half")
    (out / ".run.json.abc.partial").write_text("{")
    shutil.copytree(out / "checkpoint-3", out / "checkpoint-9")  # whole, but no pointer was set to it
    graftlm.fit(resume=out)
    graftlm.fit(**options(world, "head", tmp_path / "whole"))
    assert left(out) == left(tmp_path / "whole")
