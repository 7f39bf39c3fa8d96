"""What a run leaves in its folder when it ends."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graftlm import methods
from graftlm.checkpoint import Card, load_card, save_adapter
from graftlm.core.errors import UserError
from graftlm.core.files import write_json, write_jsonl
from graftlm.core.records import RunRecord
from graftlm.core.reporter import Reporter
from graftlm.recipes._cut import remembered
from graftlm.recipes._folder import RunFolder
from graftlm.recipes._origin import peak_memory
from graftlm.recipes._run import Job
from graftlm.recipes._watched import shrinking
from graftlm.recipes.predict import problem_of
from graftlm.training import Outcome

Extra = Callable[[Job], Mapping[str, Any]]
"""What a caller adds to the record of a run whose best weights are in place."""


def save(
    job: Job,
    folder: RunFolder,
    outcome: Outcome,
    started: Mapping[str, Any],
    reporter: Reporter,
    extra: Extra = lambda job: {},
) -> RunRecord:
    """Writes what the run has come to, `run.json` last. One that failed keeps its best weights, if it has any."""
    out, best, model, name = folder.path, dict(outcome.best or {}), job.model, job.run.name
    primary = model.task.measures(model.problem)[0]
    answers, last = _answers(job, reporter) if best or not outcome.failed else (None, {})
    best |= last if best else {}
    tensors = model.attached.kept(name)
    folder.check()
    if best or not outcome.failed:
        save_adapter(out / "adapter", _card(job, best), tensors, job.peft)
    if best:
        write_json(out / "metrics.json", {"split": "validation", "metrics": best, "primary": primary})
    record = {
        **started,
        "parameters": _counts(job, tensors),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "stopped": outcome.stopped,
        "validation": best,
        "lower_is_better": primary in model.task.LOWER_IS_BETTER,
        "passes_per_batch": outcome.pieces,
        "timing": {
            "total_seconds": round(folder.seconds, 3),
            "train_seconds": round(outcome.seconds, 3),
            "evaluate_seconds": round(outcome.evaluating, 3),
            "cache_seconds": round(model.bottom.seconds, 3) if model.bottom is not None else 0.0,
            "train_examples_per_second": round(outcome.examples / max(outcome.seconds, 1e-9), 2),
        },
        "peak_memory_bytes": peak_memory(),
    }
    if outcome.failed:
        folder.end(record, "failed")
        kept = f"; {out / 'adapter'} holds its best weights, of step {outcome.best_step}" if best else ""
        raise UserError(f'run "{name}" stopped: {outcome.stopped}{kept}')
    if answers is not None:
        write_jsonl(out / "predictions.jsonl", answers)
    before = time.perf_counter()
    if more := extra(job):
        record |= {**more, "timing": record["timing"] | {"test_seconds": round(time.perf_counter() - before, 3)}}
    folder.end(record, "done")
    return _record(out, best, primary, record)


def done(folder: RunFolder) -> RunRecord:
    """The record of a run that is done."""
    card = load_card(folder.path)
    problem = problem_of(card)
    return _record(folder.path, card.metrics, problem.module.measures(problem)[0], folder.record)


def _record(out: Path, metrics: Mapping[str, float], primary: str, record: Mapping[str, Any]) -> RunRecord:
    seconds = record["timing"]["total_seconds"]
    return RunRecord(out, metrics, primary, record["parameters"], seconds, record["steps"], record["stopped"], record)


def _card(job: Job, best: Mapping[str, float]) -> Card:
    config, data, model = job.run.config, job.run.data, job.model
    stored = methods.kept(job.run.method)
    return Card(
        task=model.problem.task,
        labels=data.labels,
        pair=data.pair,
        method={"name": stored.method, **stored.model_dump(mode="json")},
        head=config.head.model_dump(mode="json"),
        prompt=model.prompts[job.run.name].config if job.run.name in model.prompts else None,
        model=config.model,
        fingerprint=model.base.fingerprint,
        max_length=job.max_length,
        seed=config.seed,
        data={
            "columns": dict(config.data.columns),
            "mark": list(config.data.mark) if config.data.mark else None,
            "cut": remembered(config.data),
            "cache": config.data.cache,
        },
        options=model.problem.options.model_dump(mode="json"),
        tuned=dict(model.problem.tuned),
        metrics=best,
    )


def _answers(job: Job, reporter: Reporter) -> tuple[list[dict[str, Any]] | None, dict[str, float]]:
    """With the weights that are kept, tunes what the task tunes, and gives the answers for validation if asked for.

    Beside them all metrics of a model that writes, for none was written while it was trained.
    """
    config, data, model = job.run.config, job.run.data, job.model
    writes = model.problem.base_head == "lm"
    if not data.splits.get("validation") or not (config.predict or model.task.TUNES or writes):
        return None, {}
    encoded = model.encode(data.splits["validation"], job.run.name, job.max_length)
    size = config.training.eval_batch_size
    found, _ = shrinking(lambda rows: model.answer(encoded, job.run.name, rows, reporter, "predict"), size)
    model.problem = model.task.tuned(found, encoded, model.problem)
    answers = model.task.decode(found, encoded, model.problem) if config.predict else None
    return answers, model.metrics(found, encoded) if writes else {}


def _counts(job: Job, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    own = job.model.attached.parameters_of(job.run.name)
    head = sum(value.numel() for name, value in own.items() if name.startswith("head."))
    total = sum(value.numel() for value in own.values())
    kept = sum(value.numel() for value in tensors.values())
    return {"delta": total - head, "head": head, "kept": kept, "base": job.model.base_parameters}
