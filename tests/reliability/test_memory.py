"""Where memory runs out, a batch goes through the model in pieces and each step takes the same examples; one whose rows
are compared does not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import graftlm
from graftlm.core.settings import TrainingConfig
from graftlm.recipes import _memory
from graftlm.recipes._model import TaskModel
from graftlm.training import out_of_memory
from reliability.runs import Killed, Killing, left, options

SAID = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "onednn": RuntimeError("could not create a primitive"),
    "python": MemoryError(),
}
EXACT = {"clip": 0, "optimizer": "sgd", "patience": 0, "save_steps": None}


class Hearing(Killing):
    def __init__(self, steps: int = -1) -> None:
        super().__init__(steps)
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


class Small:
    """An allocator that holds only so many rows in a training pass, and notes what went through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int, error: BaseException, at: int = 0):
        self.rows, self.error, self.at = rows, error, at
        self.seen: list[tuple[int, list[int]]] = []
        real = TaskModel.losses

        def losses(model: TaskModel, rows: Mapping[str, Sequence[int]], steps: Mapping[str, int], *rest: Any) -> Any:
            (own,), (step,) = rows.values(), steps.values()
            if len(own) > self.rows and step // 1024 >= self.at:
                raise self.error
            self.seen.append((step // 1024, list(own)))
            return real(model, rows, steps, *rest)

        monkeypatch.setattr(TaskModel, "losses", losses)


def _weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "adapter/adapter_model.safetensors")


def _taken(seen: Sequence[tuple[int, list[int]]]) -> list[list[int]]:
    """The examples of each step that was taken whole."""
    return [sorted(row for at, rows in seen for row in rows if at == step) for step in sorted({at for at, _ in seen})]


@pytest.mark.parametrize("kind", SAID)
def test_batches_are_cut_until_they_fit_and_the_steps_are_the_same(
    kind: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        whole = Small(patch, 99, SAID[kind])
        graftlm.fit(**options(world, "lora", tmp_path / "whole", batch_size=7, **EXACT))
    small, hearing = Small(monkeypatch, 2, SAID[kind], at=3), Hearing()
    run = graftlm.fit(**options(world, "lora", tmp_path / "small", batch_size=7, **EXACT), reporter=hearing)
    assert [text.split(";")[0] for text in hearing.said] == [
        "out of memory at step 4: from here on a batch of 7 goes through the model in 2 pieces",
        "out of memory at step 4: from here on a batch of 7 goes through the model in 4 pieces",
    ]
    assert (run.record["passes_per_batch"], max(len(rows) for at, rows in small.seen if at > 2)) == (4, 2)
    assert _taken(small.seen) == _taken(whole.seen)
    one, other = _weights(tmp_path / "whole"), _weights(tmp_path / "small")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_one_example_that_does_not_fit_says_what_needs_less(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(monkeypatch, 0, SAID["cuda"])
    with pytest.raises(
        graftlm.UserError, match=r"out of memory at step 1 with one example a pass \(CUDA out of mem.*\); a smaller"
    ):
        graftlm.fit(**options(world, "lora", tmp_path / "run"))


def test_a_batch_whose_rows_are_compared_is_not_cut(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(monkeypatch, 4, SAID["cuda"])
    values = options(world, "lora", tmp_path / "run", batch_size=7)
    values |= {"data": {"path": values["data"], "columns": {"query": "text", "document": "text"}}, "head": {}}
    said = r"step 1 with a batch of 7 \(CUDA out of mem.*\); its loss compares .* a smaller training.batch_size or"
    with pytest.raises(graftlm.UserError, match=said):
        graftlm.fit(**values, task="matching")


def test_a_run_that_goes_on_uses_the_pieces_that_it_had(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(monkeypatch, 2, SAID["cpu"], at=2)
    graftlm.fit(**options(world, "lora", tmp_path / "whole"))
    hearing = Hearing(5)
    with pytest.raises(Killed):
        graftlm.fit(**options(world, "lora", tmp_path / "killed"), reporter=hearing)
    hearing = Hearing()
    graftlm.fit(resume=tmp_path / "killed", reporter=hearing)
    assert not [text for text in hearing.said if "out of memory" in text]
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


@pytest.mark.parametrize(("fits", "size"), [(3, 3), (0, 1)])
def test_an_evaluation_takes_smaller_batches_until_they_fit(
    fits: int, size: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = TaskModel.logits, []

    def logits(model: TaskModel, features: Any, run: str, size: int, *rest: Any) -> Tensor:
        sizes.append(size)
        if size > fits:
            raise SAID["cpu"]
        return real(model, features, run, size, *rest)

    monkeypatch.setattr(TaskModel, "logits", logits)
    values = options(world, "head", tmp_path / "run", eval_batch_size=12)
    if fits:
        graftlm.fit(**values)
        assert (sizes[:3], set(sizes[3:])) == ([12, 6, 3], {3})
        return
    with pytest.raises(graftlm.UserError, match="out of memory in evaluation with one example a pass"):
        graftlm.fit(**values)


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    assert not any(map(out_of_memory, (RuntimeError("size mismatch"), ValueError("out of memory"), OSError())))


def test_a_training_that_will_not_fit_is_warned_of_before_its_first_step(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = Hearing()
    graftlm.fit(**options(world, "head", tmp_path / "one"), reporter=hearing)
    assert not hearing.said
    monkeypatch.setattr(_memory, "free_memory", lambda device: 1000)
    graftlm.fit(**options(world, "head", tmp_path / "two"), reporter=hearing)
    assert hearing.said == [
        "training needs about 0.0 GB beside the model, and 0.0 GB are free; a smaller training.batch_size with more "
        "training.accumulation, or training.gradient_checkpointing=true, needs less"
    ]


def test_a_method_that_cannot_be_held_is_refused_before_its_tensors_are_made(world: Path, tmp_path: Path) -> None:
    values = {**options(world, "lora", tmp_path / "run"), "method": {"name": "lora", "rank": 100_000_000_000}}
    with pytest.raises(graftlm.UserError, match=r"\(lora\) would train 12,800,000,000,000 numbers, .* GB are free"):
        graftlm.fit(**values)
    assert not (tmp_path / "run").exists()


def test_the_estimate_counts_tokens_layers_and_width() -> None:
    plain = _memory.estimate(TrainingConfig(), 64 * 128, 6, 384)
    assert plain == pytest.approx(1.5e9, rel=0.05)  # 1.50 GB were measured with LoRA on MiniLM
    assert _memory.estimate(TrainingConfig(precision="bf16"), 64 * 128, 6, 384) == plain // 2
    checkpointed = _memory.estimate(TrainingConfig(gradient_checkpointing=True), 16 * 128, 30, 576)
    assert checkpointed == pytest.approx(0.9e9, rel=0.1)  # 0.90 GB with LoRA on SmolLM2


@pytest.mark.parametrize("names", _memory.LIMITS)
def test_what_a_container_leaves_is_less_than_what_the_machine_has(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "CGROUPS", tmp_path)
    before = _memory.free_memory(torch.device("cpu"))
    assert before > 1 << 20
    for name, text in zip((*names, "memory.stat"), ("1048576", "1000000", "anon 5\ninactive_file 1000"), strict=True):
        (tmp_path / name).write_text(text)
    assert _memory.free_memory(torch.device("cpu")) == 1048576 - 1000000 + 1000
    (tmp_path / names[0]).write_text("max")
    assert _memory.free_memory(torch.device("cpu")) > 1 << 20
