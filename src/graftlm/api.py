"""The Python face of the jobs: plain arguments in, records out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.core.config import merged
from graftlm.core.records import Evaluation, RunRecord
from graftlm.core.reporter import Reporter
from graftlm.core.settings import DataConfig, FitConfig
from graftlm.recipes import evaluate as _evaluate
from graftlm.recipes import fit as _fit
from graftlm.recipes import merge as _merge
from graftlm.recipes import predict as _predict
from graftlm.recipes.predict import Predictor


def fit(
    *,
    model: str,
    data: str | Path | Mapping[str, Any],
    out: str | Path,
    method: str | Mapping[str, Any] = "lora",
    task: str = "classification",
    training: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    **options: Any,
) -> RunRecord:
    """Trains one run and writes its folder.

    `method` is a name or {"name": "lora", "rank": 4}; `data` a path or a DataConfig's values; `training` and `head`
    the values of TrainingConfig and HeadConfig. Other options are FitConfig's (`predict`, `overwrite`).
    """
    values: dict[str, Any] = {
        "model": model,
        "task": task,
        "data": {"path": str(data)} if isinstance(data, str | Path) else dict(data),
        "method": method,
        "out": str(out),
        "seed": seed,
        "training": dict(training or {}),
        "head": dict(head or {}),
    }
    return _fit.fit(FitConfig.parse(merged(values, options)), reporter)


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


def load(run: str | Path, reporter: Reporter | None = None) -> Predictor:
    """A finished run, ready to `predict(["a text", …])`."""
    return _predict.load(run, reporter)


def merge(run: str | Path, to: str | Path, reporter: Reporter | None = None) -> Path:
    """Writes base and adapter as one plain Transformers model."""
    return _merge.merge(run, to, reporter)
