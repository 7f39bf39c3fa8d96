"""What a run of a comparison leaves of its test split, so that a report can be made from the folders alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from graftlm import tasks
from graftlm.core.example import Example
from graftlm.core.files import write_jsonl
from graftlm.core.records import not_finite
from graftlm.core.reporter import Silent
from graftlm.core.results import EXAMPLES, LONG, TESTED
from graftlm.recipes._origin import fingerprint
from graftlm.recipes._prompt_head import reading
from graftlm.recipes._run import Job, Run
from graftlm.recipes._watched import shrinking
from graftlm.tasks import Encoded, Problem, TaskData


@dataclass(frozen=True)
class Test:
    """A comparison's test split, its fingerprint, and what is asked of it."""

    data: TaskData
    fingerprint: str
    problem: Problem

    @property
    def examples(self) -> Sequence[Example]:
        return self.data.splits["test"]


def test_of(run: Run, fields: Sequence[str]) -> Test | None:
    """The test split, if there is one; `fields` are those that templates take of it."""
    config = run.config.data
    if "test" not in tasks.locate(config, None).found:
        return None
    problem = reading(run.problem, fields) if run.config.prompt is not None else run.problem
    data = tasks.load(config, problem, splits=("test",), labels=run.data.labels, fields=fields)
    return Test(data, fingerprint(data), problem)


def keep_test(test: Test | None, out: Path) -> None:
    """Writes the texts of the test split and their true answers beside the runs."""
    if test is not None:
        write_jsonl(out / EXAMPLES, [_said(example, test) for example in test.examples])


def tested(job: Job, test: Test | None, folder: Path) -> dict[str, Any]:
    """Metrics, classes, confusion and gates of a run with its best weights; writes its answers, a line an example."""
    if test is None:
        return {}
    model, name = job.model, job.run.name
    encoded = model.encode(test.examples, name, job.max_length)
    most = job.run.config.training.eval_batch_size
    found, size = shrinking(lambda rows: model.answer(encoded, name, rows, Silent(), "test"), most)
    metrics = model.metrics(found, encoded)
    if not_finite(metrics):
        return {}
    write_jsonl(folder / TESTED, _answers(job, found, encoded))
    details = model.task.details(found, encoded, model.problem)
    return {
        "test": {
            "metrics": metrics,
            "per_class": [dict(row) for row in details.per_class],
            "confusion": [list(row) for row in details.confusion],
            "labels": list(model.problem.labels),
            "examples": len(test.examples),
            "data": test.fingerprint,
        },
        "gates": _gates(job, encoded, size),
    }


def _answers(job: Job, found: Any, encoded: Encoded) -> list[dict[str, Any]]:
    """The answer to each example, and its share of the first metric where the task can say it."""
    task, problem = job.model.task, job.model.problem
    given = task.decode(found, encoded, problem)
    parts = task.shares(found, encoded, problem) if hasattr(task, "shares") else [None] * len(given)
    shown = [_spelt(answer[task.SHOWN]) if hasattr(task, "SHOWN") else None for answer in given]
    return [{"answer": answer, "share": part} for answer, part in zip(shown, parts, strict=True)]


def _spelt(value: Any) -> str | float:
    """Texts and numbers as they are, a list as JSON; of answers with places of their own the texts alone."""
    if isinstance(value, str | float):
        return value
    parts = [part["answer"] if isinstance(part, Mapping) else part for part in value]
    return json.dumps(parts, ensure_ascii=False)


def _said(example: Example, test: Test) -> dict[str, Any]:
    task, labels = test.problem.module, test.data.labels
    true = labels[example.label] if example.label is not None else example.score
    if example.answer is not None and hasattr(task, "right"):
        true = task.right(example, labels)
    text = example.text or " / ".join(example.meta.get("row", {}).values())  # of a template's fields
    texts = {"text": text[:LONG]}
    if example.text_pair is not None:
        texts["text_pair"] = example.text_pair[:LONG]
    if isinstance(true, tuple):
        return {**texts, "true": true[0] if len(true) == 1 else true}
    return {**texts, "true": "" if true is None else str(_spelt(true))}


def _gates(job: Job, encoded: Encoded, size: int) -> dict[str, float]:
    """The mean opening of each gate; nothing for a method without gates."""
    if not any("gate" in key for key in job.model.attached.parameters_of(job.run.name)):
        return {}
    found = job.model.gates(encoded.rows, job.run.name, size, Silent())
    return {key: mean(values.tolist()) for key, values in found.items()}
