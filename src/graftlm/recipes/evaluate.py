"""One job: metrics of a run on one split."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm import tasks
from graftlm.checkpoint import adapter_folder
from graftlm.core.errors import UserError
from graftlm.core.files import same_file, write_json, write_jsonl
from graftlm.core.records import Evaluation, not_finite
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import DataConfig, Precision
from graftlm.recipes._cached import default_folder
from graftlm.recipes._cut import recut
from graftlm.recipes.predict import RUN, fields_of, load

PREDICTIONS = "predictions.jsonl"


def evaluate(
    run: str | Path,
    data: DataConfig,
    split: str = "test",
    reporter: Reporter | None = None,
    *,
    predict: bool = False,
    batch_size: int = 64,
    task: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
) -> Evaluation:
    """Evaluates a run on a split and writes `metrics.json` (and with `predict`, `predictions.jsonl`) into its folder.

    Columns, entity marks and, on the file that the run was trained on, the cut into splits are those of the training
    unless `data` gives its own; `task` are options of the task in place of the training's; `precision` is
    that of the base's weights.
    """
    reporter = reporter or Warned()
    folder = adapter_folder(Path(run))
    out = folder.parent if folder.name == "adapter" else folder
    if predict and same_file(out / PREDICTIONS, Path(data.path)):
        raise UserError(
            f"the predictions would replace the data, {data.path}; copy it to another place, or leave them out"
        )
    predictor = load(run, reporter, task=task, fold=True, precision=precision)
    card, module = predictor.card, predictor.model.task
    stored = card.data
    data = data.model_copy(
        update={
            "columns": dict(data.columns) or stored.get("columns") or {},
            "mark": data.mark or (tuple(stored["mark"]) if stored.get("mark") else None),
        }
    )
    data = recut(data, stored.get("cut"))
    problem = predictor.model.problem
    loaded = tasks.load(data, problem, splits=(split,), labels=card.labels, fields=fields_of(card))
    if loaded.pair != card.pair:
        wanted, found = ("pairs of texts", "single texts") if card.pair else ("single texts", "pairs")
        raise UserError(f"{run} was trained on {wanted}, and {data.path} has {found}; map the text columns")
    examples = loaded.splits[split]
    for note in loaded.notes:
        reporter.line(note)
    predictor.model.cache = default_folder() if data.cache and stored.get("cache", True) else None
    started = time.perf_counter()
    encoded = predictor.encode(examples, reporter)
    answer = predictor.model.answer(encoded, RUN, batch_size, reporter, "predict")
    seconds = time.perf_counter() - started
    metrics = predictor.model.metrics(answer, encoded)
    bad = not_finite(metrics)
    if bad is not None:
        raise UserError(
            f"{run} has {bad} on {split}, so nothing is written; its training diverged, a lower learning rate may help"
        )
    details = module.details(answer, encoded, problem)
    primary = module.measures(problem)[0]
    write_json(out / "metrics.json", {"split": split, "metrics": metrics, "primary": primary})
    if predict:
        write_jsonl(out / PREDICTIONS, module.decode(answer, encoded, problem))
    return Evaluation(
        split, metrics, primary, card.labels, details.per_class, details.confusion, len(examples), seconds
    )
