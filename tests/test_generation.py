"""Generation on tiny decoders and encoder-decoders, with any method: trained, stored, asked again, many runs at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graftlm
import tiny
from folders import saved, write
from graftlm.core.settings import DataConfig
from graftlm.tasks import load, parse
from test_task_families import METHODS, words

FAMILIES = ("gpt2", "llama", "t5", "bart")
SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
CASES = [
    (family, method)
    for family in FAMILIES
    for method in METHODS
    if method != "head" and (method != "bitfit" or family not in tiny.BIASLESS)
]


def pairs(count: int) -> list[dict[str, Any]]:
    rows = []
    for row in range(count):
        own = words(row, 3 + row % 5 + 40 * (row % 9 == 8))
        rows.append({"text": " ".join(own), "target": " ".join(own[1:3]), "references": [" ".join(own[:2]), own[0]]})
    return rows


def task(method: str, **options: Any) -> dict[str, Any]:
    return {"name": "generation", "max_new_tokens": 6, "cache": method != "unipelt", **options}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_generator_is_trained_stored_and_asked_again(family: str, method: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family, lm=True), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    asked = task(method)
    run = graftlm.fit(
        model=model, task=asked, data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT, predict=True
    )
    assert {"bleu", "chrf", "rougeL", "exact_match", "loss"} == set(run.metrics)
    again = graftlm.evaluate(tmp_path / "run", data["path"], "validation", predict=False)
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    first = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    options = {name: value for name, value in asked.items() if name != "name"}
    examples = load(DataConfig.parse(data), parse(options, "generation"), splits=("validation",)).splits["validation"]
    predictor = graftlm.load(tmp_path / "run")
    assert [predictor.predict([example])[0] for example in examples] == first
    assert torch.isfinite(torch.tensor(run.metrics["loss"]))
