"""One job: train one run on one task, and leave its folder."""

import importlib.metadata
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base, Card, load_base, save_adapter
from graftlm.core.errors import UserError, unknown
from graftlm.core.files import write_json, write_jsonl
from graftlm.core.records import RunRecord
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.settings import FitConfig
from graftlm.recipes._cached import default_folder
from graftlm.recipes._cut import remembered
from graftlm.recipes._history import History
from graftlm.recipes._model import TaskModel, build
from graftlm.recipes._peft import method_form, run_form
from graftlm.sites import Select
from graftlm.tasks import Encoded, Problem, TaskData
from graftlm.training import Outcome, Plan, optimizers, train

RUN = "run"


def fit(config: FitConfig, reporter: Reporter | None = None) -> RunRecord:
    """Trains a run and writes its folder: `run.json`, `metrics.json`, `history.jsonl` and `adapter/`.

    Everything that can be wrong with the options is found before anything is written; a UserError names it.
    """
    reporter = reporter or Silent()
    started = time.perf_counter()
    out = _free(Path(config.out), config.overwrite)
    problem = tasks.parse({k: v for k, v in config.task.items() if k != "name"}, str(config.task["name"]))
    method = methods.parse(str(config.method["name"]), {k: v for k, v in config.method.items() if k != "name"})
    _known_optimizer(config)
    data = tasks.load(config.data, problem, splits=("train", "validation"))
    problem = replace(problem, labels=data.labels)
    _known_metric(config, problem)
    for note in data.notes:
        reporter.line(note)
    method = methods.with_labels(method, data.labels)
    base = load_base(config.model)
    accelerator = _accelerator(config)
    model, peft = _assemble(config, base, method, problem, accelerator.device, reporter)
    model.cache = default_folder() if config.data.cache else None
    plan, losses, max_length = _plan(config, model, data, method, reporter)
    out.mkdir(parents=True, exist_ok=True)
    with History(out / "history.jsonl") as history:
        plan.record = history.write
        accelerator.init_trackers("graftlm", config=None)
        outcome = train(losses, {RUN: plan}, accelerator, reporter)[RUN]
        accelerator.end_training()
    return _save(config, out, model, data, method, outcome, peft, max_length, time.perf_counter() - started, reporter)


def _free(out: Path, overwrite: bool) -> Path:
    if out.exists() and not out.is_dir():
        raise UserError(f"out = {out} is a file; name a folder")
    if out.is_symlink() and not out.exists():
        raise UserError(f"out = {out} is a link to nothing; name a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} is not empty; name another folder, or pass --overwrite")
    return out


def _known_metric(config: FitConfig, problem: Problem) -> None:
    metric, known = config.training.metric, problem.module.measures(problem)
    if metric is not None and metric not in known:
        raise unknown("metric", metric, known)


def _known_optimizer(config: FitConfig) -> None:
    known = optimizers()
    if config.training.optimizer not in known:
        raise unknown("optimizer", config.training.optimizer, known)


def _assemble(
    config: FitConfig,
    base: Base,
    method: methods.MethodConfig,
    problem: Problem,
    device: torch.device,
    reporter: Reporter,
) -> tuple[TaskModel, methods.PeftForm | None]:
    set_seed(config.seed)
    sites = base.sites()
    if sites.notice:
        reporter.warn(sites.notice)
    if config.training.gradient_checkpointing and sites.table is not None and not sites.table.checkpointing:
        raise UserError(
            f'gradient_checkpointing = true, but Transformers has none for "{sites.family}"; a smaller batch_size with '
            "training.accumulation needs less memory too"
        )
    form = method_form(method, sites)
    selects = any(isinstance(act, Select) for act in methods.acts(method, sites))
    if config.training.precision == "bf16" and not selects:
        base.model.to(torch.bfloat16)
    base.model.to(device)  # pyright: ignore[reportArgumentType]
    model = build(base, {RUN: method}, config.head, problem, {RUN: config.seed})
    if config.training.gradient_checkpointing:
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    if config.training.base_dropout:
        model.attached.base_dropout(True)
    return model, run_form(form, model, config.head)


def _accelerator(config: FitConfig) -> Accelerator:
    known = {str(name).rsplit(".", 1)[-1].lower() for name in _tracker_names()}
    for name in config.training.trackers:
        if name not in known:
            raise unknown("tracker", name, known)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    try:
        return Accelerator(
            mixed_precision="bf16" if config.training.precision == "bf16" else "no",
            log_with=list(config.training.trackers) or None,  # pyright: ignore[reportArgumentType]
            project_dir=str(Path(config.out) / "trackers") if config.training.trackers else None,
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"trackers = {', '.join(config.training.trackers)}: {error}") from None


def _tracker_names() -> list[str]:
    from accelerate.utils import LoggerType

    return [item.value for item in LoggerType if item.value != "all"]


def _plan(
    config: FitConfig, model: TaskModel, data: TaskData, method: methods.MethodConfig, reporter: Reporter
) -> tuple[Plan, Any, int]:
    train_set, validation = data.splits["train"], data.splits.get("validation", [])
    given = model.encode(train_set, RUN, config.training.max_length, strict=not config.data.skip_bad)
    watched = model.encode(validation, RUN, config.training.max_length)
    for split, encoded in (("train", given), ("validation", watched)):
        for note in encoded.notes:
            reporter.warn(f"{split}: {note}")
    max_length = config.training.max_length or model.limits[RUN]
    if not validation:
        reporter.warn("no validation split: nothing is evaluated, and the last weights are kept")
    rate = config.training.learning_rate or methods.learning_rate(method)
    targets = model.task.goals(given)
    metric = config.training.metric or model.task.measures(model.problem)[0]
    worse_is_more = metric in model.task.LOWER_IS_BETTER
    plan = Plan(
        parameters=model.attached.parameters_of(RUN),
        lengths=[len(row.ids) for row in given.rows],
        config=config.training,
        seed=config.seed,
        rate=rate,
        head_rate=config.training.head_learning_rate or rate,
        rates=model.attached.rates_of(RUN),
        evaluate=_evaluator(config, model, watched) if validation else None,
        metric=metric,
        better=(lambda new, old: new < old) if worse_is_more else (lambda new, old: new > old),
    )
    model.attached.train()

    def losses(rows: Mapping[str, Any], steps: Mapping[str, int]) -> dict[str, Tensor]:
        if not model.attached.training:
            model.attached.train()
        return model.losses(rows, steps, {RUN: given.rows}, {RUN: targets})

    return plan, losses, max_length


def _evaluator(config: FitConfig, model: TaskModel, watched: Encoded) -> Callable[[], Mapping[str, float]]:
    def evaluate() -> Mapping[str, float]:
        quiet = Silent()  # the training bar goes on showing
        logits = model.logits(watched.rows, RUN, config.training.eval_batch_size, quiet, "evaluate")
        model.problem = model.task.tuned(logits, watched, model.problem)
        return model.metrics(logits, watched)

    return evaluate


def _save(
    config: FitConfig,
    out: Path,
    model: TaskModel,
    data: TaskData,
    method: methods.MethodConfig,
    outcome: Outcome,
    peft: methods.PeftForm | None,
    max_length: int,
    seconds: float,
    reporter: Reporter,
) -> RunRecord:
    best = dict(outcome.best or {})
    primary = model.task.measures(model.problem)[0]
    answers = _answers(config, model, data, max_length, reporter)
    tensors = model.attached.kept(RUN)
    counts = _counts(model, tensors)
    stored = methods.kept(method)
    card = Card(
        task=model.problem.task,
        labels=data.labels,
        pair=data.pair,
        method={"name": stored.method, **stored.model_dump(mode="json")},
        head=config.head.model_dump(mode="json"),
        model=config.model,
        fingerprint=model.base.fingerprint,
        max_length=max_length,
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
    save_adapter(out / "adapter", card, tensors, peft)
    timing = {
        "total_seconds": round(seconds, 3),
        "train_seconds": round(outcome.seconds, 3),
        "train_examples_per_second": round(outcome.examples / max(outcome.seconds, 1e-9), 2),
    }
    record = {
        "config": config.model_dump(mode="json")
        | {"method": {"name": method.method, **method.model_dump(mode="json")}},
        "versions": _versions(),
        "seed": config.seed,
        "parameters": counts,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "stopped": outcome.stopped,
        "timing": timing,
        "peak_memory_bytes": _peak_memory(),
    }
    write_json(out / "run.json", record)
    if best:
        write_json(out / "metrics.json", {"split": "validation", "metrics": best, "primary": primary})
    if answers is not None:
        write_jsonl(out / "predictions.jsonl", answers)
    return RunRecord(out, best, primary, counts, seconds, outcome.steps, outcome.stopped, record)


def _answers(
    config: FitConfig, model: TaskModel, data: TaskData, max_length: int, reporter: Reporter
) -> list[dict[str, Any]] | None:
    """Tunes what the task tunes with the weights that are kept, and gives the answers for validation if asked for."""
    if not data.splits.get("validation") or not (config.predict or model.task.TUNES):
        return None
    encoded = model.encode(data.splits["validation"], RUN, max_length)
    logits = model.logits(encoded.rows, RUN, config.training.eval_batch_size, reporter, "predict")
    model.problem = model.task.tuned(logits, encoded, model.problem)
    return model.task.decode(logits, encoded, model.problem) if config.predict else None


def _counts(model: TaskModel, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    own = model.attached.parameters_of(RUN)
    head = sum(value.numel() for name, value in own.items() if name.startswith("head."))
    total = sum(value.numel() for value in own.values())
    kept = sum(value.numel() for value in tensors.values())
    return {"delta": total - head, "head": head, "kept": kept, "base": model.base_parameters}


def _versions() -> dict[str, str]:
    names = ("graftlm", "torch", "transformers", "accelerate")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
