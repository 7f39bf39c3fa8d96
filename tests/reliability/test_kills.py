"""A real process is killed with SIGKILL, at any moment, and what it had done is not lost."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from reliability.commands import Commands, wait_for
from reliability.runs import command, left

KILLS = int(os.environ.get("GRAFTLM_KILLS", "30"))
METHODS = ("lora", "prefix-mlp", "prompt-residual", "ptuning", "houlsby", "full")
LONG = {"max_steps": 30, "patience": 0}


class Tally:
    """How many processes were killed, and what they were doing as far as it can be seen afterwards."""

    def __init__(self) -> None:
        self.kills = self.writing = self.lost = 0

    def count(self, out: Path, before: int | None) -> None:
        self.kills += 1
        self.writing += bool([*out.glob(".checkpoint*.partial")])
        self.lost += before is not None and (_step(out) or 0) < before


def _step(out: Path) -> int | None:
    """The step of the checkpoint that counts, which is whole."""
    if not (out / "checkpoint.json").exists():
        return None
    name = json.loads((out / "checkpoint.json").read_text())["checkpoint"]
    try:
        return json.loads((out / name / "state.json").read_text())["step"]
    except FileNotFoundError:  # a later one has taken its place since
        return _step(out)


def _lines_are_whole(out: Path) -> bool:
    text = (out / "history.jsonl").read_text() if (out / "history.jsonl").exists() else ""
    return all(json.loads(line) for line in text.splitlines()) and text[-1:] in ("", "\n")


def _killed_until_done(commands: Commands, start: list[str], out: Path, draw: random.Random, most: int) -> Tally:
    """Kills the run and each that goes on with it after a random while, and lets the last one end."""
    tally, go_on = Tally(), ["fit", "--resume", str(out), "--quiet"]
    for _ in range(most):
        before = _step(out)
        process = commands.start(*(go_on if (out / "run.json").exists() else start))
        if (moment := draw.randrange(3)) == 0:
            time.sleep(draw.uniform(0, 1.0))
        else:
            _wait_for_progress(process, out, before)
            time.sleep(draw.uniform(0, 0.15))
        if moment == 2:
            _wait_for_write(process, out)
        if not _ended(process):
            os.kill(process, signal.SIGKILL)
        code, said = commands.end()
        assert code in (0, -signal.SIGKILL), said
        if code == 0:
            return tally
        tally.count(out, before)
        assert _lines_are_whole(out)
    code, said = commands(*(go_on if (out / "run.json").exists() else start))
    assert code == 0, said
    return tally


def _wait_for_progress(process: int, out: Path, before: int | None) -> None:
    """Until there is a later checkpoint than before."""
    wait_for(lambda: _step(out) != before or _ended(process))


def _wait_for_write(process: int, out: Path) -> None:
    """Until a checkpoint is being written."""
    wait_for(lambda: any(out.glob(".checkpoint-*.partial")) or _ended(process), pause=0)


def _ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_process_that_is_killed_a_few_times_ends_in_the_same_bits(
    commands: Commands, world: Path, tmp_path: Path
) -> None:
    assert commands(*command(world, "prefix-mlp", tmp_path / "whole", **LONG))[0] == 0
    start = command(world, "prefix-mlp", tmp_path / "killed", **LONG)
    tally = _killed_until_done(commands, start, tmp_path / "killed", random.Random(0), 3)
    assert (tally.kills > 0, tally.lost) == (True, 0)
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


@pytest.mark.slow
def test_no_checkpoint_is_lost_in_many_kills(commands: Commands, world: Path, tmp_path: Path) -> None:
    draw, kills, writing = random.Random(1), 0, 0
    for method in METHODS:
        assert commands(*command(world, method, tmp_path / f"{method}-whole", **LONG))[0] == 0
    turn = 0
    while kills < KILLS:
        method, out = METHODS[turn % len(METHODS)], tmp_path / str(turn)
        start = command(world, method, out, **LONG)
        tally = _killed_until_done(commands, start, out, draw, min(KILLS - kills, 8))
        assert tally.lost == 0
        assert left(out) == left(tmp_path / f"{method}-whole")
        kills, writing, turn = kills + tally.kills, writing + tally.writing, turn + 1
    print(f"{kills} kills in {turn} runs, {writing} of them inside a checkpoint's write, none lost")
    assert writing > 0
