"""Where one place of each row is read, the last block is computed there alone, and what is read is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import graftlm
import tiny
from graftlm.core.example import Example
from graftlm.methods import attach, parse
from graftlm.sites import Attached, _last_block, row_keys
from graftlm.sites._one_place import OnePlace
from prompts.models import rows, saved, write

METHODS: dict[str, Any] = dict(tiny.METHODS)
METHODS["dropped"] = parse("lora", {"rank": 2, "alpha": 4, "sites": "all-linear", "dropout": 0.3})
RUNS: dict[str, Sequence[str]] = {
    "many": ("dropped", "lora-all-linear", "ia3", "prefix-mlp", "prompt", "bitfit"),
    "by-token": ("lora-dora", "lora-embedding", "ptuning-v2", "instance-prompt", "head"),
    "spans": ("pfeiffer", "houlsby", "parallel", "mam", "lora"),
    "in-place": ("full",),
}
WHOLE = ("unipelt", "union-gated")  # a gate there needs all of a text


def made(family: str, methods: Sequence[str], **overrides: Any) -> Attached:
    configs = {name: METHODS[name] for name in methods if name == "dropped" or tiny.fits(family, name)}
    attached = attach(tiny.model(family, dtype=torch.float64, **overrides), configs)
    tiny.randomise_runs(attached)
    return attached.train()


def read(attached: Attached, narrow: bool, side: str = "right") -> tuple[Tensor, dict[str, Tensor], int]:
    """The logits at each row's last token, the gradients of what is trained, and the products' FLOPs."""
    names = list(attached.runs) * 2
    rows = [tiny.virtual(attached, name) + text for name, text in zip(names, tiny.texts(len(names)), strict=True)]
    batch = tiny.batch_of(attached.base, rows, side, 12)
    attached.route(names, row_keys(3, 5, torch.arange(len(rows))))
    places = (tiny.real_of(batch) * torch.arange(12)).argmax(1)
    with FlopCounterMode(display=False) as counter:
        if narrow:
            with attached.reading(places, 12):
                out = tiny.output(attached(**batch))
        else:
            out = tiny.output(attached(**batch))
        found = out[torch.arange(len(rows)), places]
        found.square().sum().backward()
    gradients: dict[str, Tensor] = {}
    for run in attached.runs:
        for name, tensor in attached.parameters_of(run).items():
            gradients[f"{run}.{name}"] = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.clone()
            tensor.grad = None
    return found.detach(), gradients, counter.get_total_flops()


def equal(one: tuple[Tensor, dict[str, Tensor], int], other: tuple[Tensor, dict[str, Tensor], int]) -> None:
    assert torch.allclose(one[0], other[0], atol=1e-10, rtol=1e-10)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], atol=1e-9, rtol=1e-9), name


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("family", tiny.TABLED)
def test_what_is_read_and_its_gradients_are_the_whole_blocks(family: str, runs: str) -> None:
    attached = made(family, RUNS[runs])
    whole, narrow = read(attached, False), read(attached, True)
    equal(whole, narrow)
    assert (narrow[2] < whole[2]) == (family != "albert")  # one block is all of its layers
    equal(whole, read(attached, False))  # nothing of it stays


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_padding_may_stand_at_the_left(family: str) -> None:
    attached = made(family, ("dropped", "prefix", "prompt"))
    equal(read(attached, False, "left"), read(attached, True, "left"))


@pytest.mark.parametrize("method", WHOLE)
def test_what_needs_all_of_a_text_in_the_last_block_has_it(method: str) -> None:
    attached = made("bert", (method, "lora"))
    whole, narrow = read(attached, False), read(attached, True)
    equal(whole, narrow)
    assert narrow[2] == whole[2]


def test_a_change_of_lower_blocks_alone_may_need_all_of_a_text_there() -> None:
    base = tiny.model("bert", dtype=torch.float64)
    first = r"encoder\.layer\.0\..*query"
    parts = [{"name": "lora", "sites": first}, {"name": "ia3", "sites": first, "inputs": []}]
    gated = parse("union", {"parts": parts, "gates": True})
    attached = attach(base, {"run": gated})
    tiny.randomise_runs(attached)
    whole, narrow = read(attached.train(), False), read(attached, True)
    equal(whole, narrow)
    assert narrow[2] < whole[2]


def test_a_feed_forward_in_pieces_is_left_whole() -> None:
    attached = made("bert", ("lora-all-linear", "dropped"), chunk_size_feed_forward=3)
    equal(read(attached, False), read(attached, True))


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_checkpointing_computes_again_what_it_computed(family: str) -> None:
    attached = made(family, ("lora-all-linear", "prefix"))
    whole = read(attached, False)
    attached.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    attached.train()
    equal(whole, read(attached, True))


PROMPT = {"verbalizer": {"a": "w1", "b": "w2"}}
LONG = {"name": "multi-mask", "words": {"a": "w1 w2", "b": "w3 w4"}}
FORMULATIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "first": ({}, True),
    "last": ({"head": {"pooling": "last"}}, True),
    "mean": ({"head": {"pooling": "mean"}}, False),
    "prompt": ({"prompt": PROMPT | {"template": "{text:shorten} w5 {mask}"}}, True),
    "two masks": ({"prompt": {"template": "{text:shorten} w5 {mask}", "verbalizer": LONG}}, False),
}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_a_training_reads_one_place_where_its_head_does(
    formulation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, reads_one = FORMULATIONS[formulation]
    model = saved("bert", tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(24)), "split": {"train": 0.75, "validation": 0.25}}
    training = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2}
    takes: list[int] = []
    take = OnePlace.take
    monkeypatch.setattr(OnePlace, "take", lambda place, x: takes.append(place.length) or take(place, x))
    found = []
    for name in ("one", "all"):
        before = len(takes)
        if name == "all":
            monkeypatch.setattr(_last_block, "_parts", lambda sites: [])
        graftlm.fit(model=model, data=data, method="lora", out=tmp_path / name, training=training, **options)
        found.append(graftlm.load(tmp_path / name).logits([Example(row["text"]) for row in rows(5)]))
        assert (len(takes) > before) == (reads_one and name == "one")
    assert torch.allclose(*found, atol=1e-5)
