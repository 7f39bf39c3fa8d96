"""The Python face of the jobs: plain arguments in, records out."""

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from graftlm.core.comparison import CompareConfig
from graftlm.core.config import merged
from graftlm.core.errors import Stopped, UserError
from graftlm.core.records import Evaluation, RunRecord
from graftlm.core.reporter import Reporter
from graftlm.core.settings import DataConfig, FitConfig, Precision, PromptConfig
from graftlm.recipes import compare as _compare
from graftlm.recipes import evaluate as _evaluate
from graftlm.recipes import export as _export
from graftlm.recipes import fit as _fit
from graftlm.recipes import import_ as _import
from graftlm.recipes import merge as _merge
from graftlm.recipes import predict as _predict
from graftlm.recipes import zero_shot as _zero_shot
from graftlm.recipes.export import Exported
from graftlm.recipes.predict import Predictor
from graftlm.reporting import report as _report

Found = TypeVar("Found")


def fit(
    *,
    model: str | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    method: str | Mapping[str, Any] = "lora",
    task: str = "classification",
    training: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> RunRecord:
    """Trains one run and writes its folder; or goes on with one: `resume` is its folder, and all else is its own.

    Ctrl-C saves the run and then raises KeyboardInterrupt; SIGTERM saves it and is then sent on.

    `method` is a name or {"name": "lora", "rank": 4}; `data` a path or a DataConfig's values; `training` and `head`
    the values of TrainingConfig and HeadConfig. Other options are FitConfig's (`predict`, `overwrite`).
    """
    if resume is not None:
        if model or data or out:
            raise UserError("resume takes the run's own model, data and out; leave them out")
        return _interruptible(lambda: _fit.resume(resume, reporter))
    for name, given in (("model", model), ("data", data), ("out", out)):
        if not given:
            raise UserError(f"{name} is missing; fit needs model, data and out, or resume")
    values: dict[str, Any] = {
        "model": model,
        "task": task,
        "data": {"path": str(data)} if isinstance(data, str | Path) else dict(data or {}),
        "method": method,
        "out": str(out),
        "seed": seed,
        "training": dict(training or {}),
        "head": dict(head or {}),
    }
    config = FitConfig.parse(merged(values, options))
    return _interruptible(lambda: _fit.fit(config, reporter))


def _interruptible(job: Callable[[], Found]) -> Found:
    try:
        return job()
    except Stopped as stopped:
        if stopped.signal != signal.SIGINT:
            signal.raise_signal(stopped.signal)
        raise KeyboardInterrupt(str(stopped)) from None


def evaluate(
    run: str | Path,
    data: str | Path | Mapping[str, Any],
    split: str = "test",
    reporter: Reporter | None = None,
    **options: Any,
) -> Evaluation:
    """Metrics of a run on one split; also written to the run's `metrics.json`."""
    values = {"path": str(data)} if isinstance(data, str | Path) else dict(data)
    return _evaluate.evaluate(run, DataConfig.parse(values, where="data."), split, reporter, **options)


def zero_shot(
    model: str,
    prompt: Mapping[str, Any],
    data: str | Path | Mapping[str, Any],
    split: str = "test",
    reporter: Reporter | None = None,
    *,
    task: str | Mapping[str, Any] = "classification",
    batch_size: int = 64,
    precision: Precision = "fp32",
) -> Evaluation:
    """Metrics of a model that was not trained, asked by a prompt: {"template": …, "verbalizer": …}; writes nothing."""
    values = {"path": str(data)} if isinstance(data, str | Path) else dict(data)
    asked = {"name": task} if isinstance(task, str) else {"name": "classification", **task}
    return _zero_shot.evaluate(
        model,
        PromptConfig.parse(prompt, where="prompt."),
        DataConfig.parse(values, where="data."),
        split,
        reporter,
        task=str(asked.pop("name")),
        batch_size=batch_size,
        options=asked,
        precision=precision,
    )


def load(
    run: str | Path,
    reporter: Reporter | None = None,
    *,
    strength: float = 1.0,
    task: Mapping[str, Any] | None = None,
    fold: bool = False,
    precision: Precision = "fp32",
) -> Predictor:
    """A finished run, ready to `predict(["a text", …])`; `strength` scales what a method on layers adds.

    `task` are options of its task, as {"beams": 4}, in place of those that it was trained with. `fold` puts a run that
    can be merged into the base's weights, which is quicker; it then cannot be changed or turned off. `precision`, fp32
    or bf16, is that of the base's weights.
    """
    return _predict.load(run, reporter, strength=strength, task=task, fold=fold, precision=precision)


def merge(run: str | Path, to: str | Path, reporter: Reporter | None = None) -> Path:
    """Writes base and adapter as one plain Transformers model."""
    return _merge.merge(run, to, reporter)


def export_peft(run: str | Path, to: str | Path, reporter: Reporter | None = None) -> Exported:
    """Writes a run as a folder that PEFT loads; the result says what keeps vLLM from it."""
    return _export.export_peft(run, to, reporter)


def import_peft(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    task: str | None = None,
    labels: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Reads an adapter that PEFT wrote into a run's folder, and gives that; `options` are those of its task."""
    return _import.import_peft(folder, out, model=model, task=task, labels=labels, options=options, reporter=reporter)


def compare(
    *,
    resume: bool = False,
    ray: str | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> _compare.Comparison:
    """Trains many runs in one pass over one base: CompareConfig's options (`model`, `data`, `methods`, `seeds`, …).

    With `resume`, a comparison that was left goes on: `out` alone says which, or the same options again. `ray`
    is the address of a Ray cluster that trains the groups. Ctrl-C saves it and then raises KeyboardInterrupt. It ends
    with the files that `report` writes.
    """
    values = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    alone = resume and set(values) == {"out"}
    config = _compare.resumed(values["out"]) if alone else CompareConfig.parse(values)

    def job() -> _compare.Comparison:
        found = _compare.compare(config, reporter, resume=resume, ray=ray)
        with _compare.stoppable(found.out):
            _report.report([found.out])
        return found

    return _interruptible(job)


def report(*folders: str | Path, out: str | Path | None = None) -> Path:
    """Writes `report.html` and `results.csv`, `.parquet` and `.tex` from folders of comparisons or runs."""
    return _report.report(folders, out)[0]
