"""Ctrl-C and SIGTERM end a run after its step, with its state saved and the line that goes on with it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm.checkpoint import _state
from graftlm.recipes import _folder
from reliability.commands import Commands, wait_for
from reliability.runs import Killing, command, left, options

ENDLESS = {"max_steps": 10**6, "patience": 0, "save_steps": None, "eval_steps": 10**6}


class Signalling(Killing):
    """Sends itself a signal after some steps, and again after each of those that follow."""

    def __init__(self, steps: int, number: int, times: int = 1):
        super().__init__(steps)
        self.number, self.times = number, times

    def advance(self, steps: int = 1, **numbers: float | str) -> None:
        self.steps -= 1
        if self.steps <= 0 and self.times:
            self.times -= 1
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_saves_says_what_goes_on_and_leaves_with_the_signals_code(
    number: int, code: int, commands: Commands, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = commands.start(*command(world, "head", out, **ENDLESS))
    wait_for(lambda: (out / "history.jsonl").exists() and (out / "history.jsonl").stat().st_size > 0)
    os.kill(process, number)
    found, said = commands.end()
    step = said.split()[3].rstrip(",") if said.startswith("stopped after step") else ""
    assert (found, said) == (
        code,
        f"stopped after step {step}, which is saved; go on with: graftlm fit --resume {out}\n",
    )
    assert (out / f"checkpoint-{step}").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(
    number: int, steps: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graftlm.fit(**options(world, "prefix-mlp", tmp_path / "whole", save_steps=None))
    monkeypatch.setattr(signal, "raise_signal", lambda sent: None)  # SIGTERM is sent on once all is saved
    with pytest.raises(KeyboardInterrupt, match="which is saved; go on with: graftlm fit --resume"):
        graftlm.fit(
            **options(world, "prefix-mlp", tmp_path / "left", save_steps=None), reporter=Signalling(steps, number)
        )
    graftlm.fit(resume=tmp_path / "left")
    assert left(tmp_path / "left") == left(tmp_path / "whole")


def test_an_evaluation_is_left_in_the_middle_and_made_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftlm.recipes._watched import _Watch

    training = {"eval_batch_size": 3, "save_steps": None}
    graftlm.fit(**options(world, "lora", tmp_path / "whole", **training))
    calls, advance = [0], _Watch.advance

    def interrupted(self: _Watch, steps: int = 1, **numbers: float | str) -> None:
        calls[0] += 1
        if calls[0] == 6:  # four batches an evaluation: this is in the second
            os.kill(os.getpid(), signal.SIGINT)
        advance(self, steps, **numbers)

    monkeypatch.setattr(_Watch, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4"):
        graftlm.fit(**options(world, "lora", tmp_path / "left", **training))
    assert calls[0] == 6
    graftlm.fit(resume=tmp_path / "left")
    assert left(tmp_path / "left") == left(tmp_path / "whole")


def test_a_second_ctrl_c_leaves_at_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*_: Any, **__: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Killing, "advance", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        graftlm.fit(**options(world, "head", tmp_path / "run", save_steps=None), reporter=Killing(0))
    assert str(caught.value) == ""
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_sigterm_while_saving_is_safe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graftlm.fit(**options(world, "lora", tmp_path / "whole"))
    written: list[int] = []
    save: Callable[..., None] = _state.save_state

    def terminated(run: Path, step: int, *rest: Any) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        save(run, step, *rest)
        written.append(step)

    monkeypatch.setattr(_folder, "save_state", terminated)
    monkeypatch.setattr(signal, "raise_signal", lambda sent: None)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 6"):
        graftlm.fit(**options(world, "lora", tmp_path / "left"))
    assert written == [1, 2, 3, 4, 5, 6]
    graftlm.fit(resume=tmp_path / "left")
    assert left(tmp_path / "left") == left(tmp_path / "whole")


def test_handlers_are_given_back_and_untouched_outside_the_main_thread(world: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    graftlm.fit(**options(world, "head", tmp_path / "one"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(graftlm.fit(**options(world, "head", tmp_path / "two"))))
    thread.start()
    thread.join()
    assert found[0].steps > 0


def test_a_signal_that_comes_when_all_steps_are_taken_is_not_swallowed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = _folder.RunFolder.end

    def ended(self: _folder.RunFolder, record: Any, state: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(self, record, state)

    monkeypatch.setattr(_folder.RunFolder, "end", ended)
    with pytest.raises(KeyboardInterrupt, match="run was done when it was asked to stop"):
        graftlm.fit(**options(world, "head", tmp_path / "run"))
    assert graftlm.fit(resume=tmp_path / "run").steps > 0
