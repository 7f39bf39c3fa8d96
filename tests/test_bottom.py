"""What stands below all runs is computed once: the same trainings as without, in families of each kind."""

from pathlib import Path
from typing import Any

import pytest

import graftlm
import tiny
from folders import TEXTS, rows, saved, write
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.methods import attach, parse
from graftlm.recipes import _bottom

TOP: dict[str, Any] = {
    "bert": {"name": "lora", "sites": r"encoder\.layer\.1\..*(query|value)"},
    "modernbert": {"name": "lora", "sites": r"layers\.1\..*Wqkv"},
    "gpt2": {"name": "lora", "sites": r"h\.1\..*c_attn"},
    "llama": {"name": "lora", "sites": r"layers\.1\..*q_proj"},
}
HEAD = {"name": "head"}
NORM = {"name": "bitfit", "sites": ["norm.final"]}


@pytest.mark.parametrize(
    ("family", "method", "depth"),
    [
        *((family, method, 1) for family, method in TOP.items()),
        ("bert", HEAD, 2),
        ("llama", HEAD, 2),
        ("t5", HEAD, 0),
        ("gpt2", NORM, 1),
    ],
)
def test_a_training_from_kept_states_is_the_training(
    family: str, method: dict[str, Any], depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tiny.model(family, pad_token_id=0), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(60)), "split": {"train": 0.6, "validation": 0.4}}
    depths: list[int] = []
    kept = _bottom.Bottom.keep

    def noted(self: _bottom.Bottom, *args: Any) -> None:
        depths.append(self.depth)
        kept(self, *args)

    monkeypatch.setattr(_bottom.Bottom, "keep", noted)
    found = {}
    for cache in ("auto", "off"):
        training = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "cache": cache}
        run = graftlm.fit(model=model, data=data, method=method, out=tmp_path / cache, training=training)
        found[cache] = graftlm.load(tmp_path / cache).logits([Example(text) for text in TEXTS]), run.metrics["loss"]
    assert depths == ([depth] if depth else [])
    (one, loss), (other, plain) = found["auto"], found["off"]
    assert (one - other).abs().max() < 1e-5
    assert loss == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [("prompt-tuning", {}), ("prefix", {}), ("bitfit", {}), ("lora", {}), ("instance-prompt", {})],
)
def test_what_acts_at_the_bottom_leaves_nothing_to_keep(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    base = load_base(saved(tiny.model("bert"), tmp_path / "base"))
    attached = attach(base.model, {"run": parse(method, {})})  # type: ignore[arg-type]
    assert _bottom.depth(attached.acts["run"], attached.sites) == 0


def test_a_run_that_trains_what_pools_keeps_all_blocks(tmp_path: Path) -> None:
    base = load_base(saved(tiny.model("bert"), tmp_path / "base"))
    attached = attach(base.model, {"run": parse("lora", {"sites": "pooler.dense"})})  # type: ignore[arg-type]
    assert _bottom.depth(attached.acts["run"], attached.sites) == 2


def test_little_memory_one_pass_or_a_base_that_is_cast_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", rows(60)), "split": {"train": 0.6, "validation": 0.4}}
    monkeypatch.setattr(_bottom.Bottom, "keep", lambda *args: pytest.fail("kept"))
    graftlm.fit(model=model, data=data, method="head", out=tmp_path / "one", training={"epochs": 1})
    cast = {"epochs": 2, "precision": "bf16"}
    graftlm.fit(model=model, data=data, method={"name": "top-k", "k": 1}, out=tmp_path / "cast", training=cast)
    monkeypatch.setattr("graftlm.recipes._speed.free_memory", lambda device: 1000)
    graftlm.fit(model=model, data=data, method="head", out=tmp_path / "two", training={"epochs": 2})
