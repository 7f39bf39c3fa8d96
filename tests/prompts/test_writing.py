"""Texts that a model writes behind a template: virtual tokens, other columns and turns in it, stored with the run."""

from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm.core.example import Example
from prompts.models import rows, saved, write

SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
CASES = [("gpt2", "prompt-tuning"), ("t5", "lora"), ("llama", "head"), ("bart", "prefix")]


def data(folder: Path) -> dict[str, Any]:
    own = [{**row, "target": " ".join(row["text"].split()[:2])} for row in rows(24)]
    return {"path": write(folder / "rows.jsonl", own), "split": {"train": 0.75, "validation": 0.25}}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_writer_has_a_template_with_virtual_tokens(family: str, method: str, tmp_path: Path) -> None:
    own = {"prompt-tuning": {"name": method, "length": 3}, "prefix": {"name": method, "length": 2, "hidden": 4}}
    prompt = {"template": "{soft:2} {text:shorten} w5 {source} {target}", "soft": "ptuning"}
    run = graftlm.fit(
        model=saved(family, tmp_path / "base"),
        task={"name": "generation", "max_new_tokens": 5},
        data=data(tmp_path),
        method=own.get(method, method),
        prompt=prompt,
        out=tmp_path / "run",
        training=SHORT,
        predict=True,
    )
    written = tmp_path / "run/predictions.jsonl"
    first = written.read_text()
    again = graftlm.evaluate(tmp_path / "run", data(tmp_path), "validation", predict=True)
    assert written.read_text() == first
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    predictor = graftlm.load(tmp_path / "run")
    examples = [Example("", meta={"row": row}) for row in rows(24)[18:]]
    assert [predictor.predict([example])[0] for example in examples] == predictor.predict(examples)
    (encoded,) = predictor.encode(examples[:1]).rows
    front = 3 if method == "prompt-tuning" else 0
    assert encoded.ids[:2] == [60 + front, 61 + front] or family == "bart"


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ({"template": "{text} {mask}"}, "does not end with {target}, where the model writes"),
        ({"template": "{target} {text}"}, "does not end with {target}"),
        ({"template": "{text} {target}", "verbalizer": {"a": "w1"}}, "this task writes texts; leave it out"),
    ],
)
def test_what_a_writer_has_no_use_for_is_refused(prompt: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    model = saved("gpt2", tmp_path / "base")
    with pytest.raises(graftlm.UserError) as error:
        graftlm.fit(
            model=model, task="generation", data=data(tmp_path), method="lora", prompt=prompt, out=tmp_path / "run"
        )
    assert wanted in str(error.value)
