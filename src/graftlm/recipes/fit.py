"""One job: train one run on one task, and leave its folder; or go on with one that was interrupted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base, Card, drop_states, load_base, load_card, save_adapter
from graftlm.core.errors import Stopped, UserError, unknown
from graftlm.core.files import write_json, write_jsonl
from graftlm.core.records import RunRecord
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.settings import FitConfig
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._cached import default_folder
from graftlm.recipes._cut import remembered
from graftlm.recipes._folder import RunFolder, explained, halting
from graftlm.recipes._memory import warn_of_memory
from graftlm.recipes._model import TaskModel, build
from graftlm.recipes._origin import origin, peak_memory, threads
from graftlm.recipes._peft import method_form, run_form
from graftlm.recipes._signals import Stopper
from graftlm.recipes._watched import Watched, shrinking
from graftlm.recipes.predict import problem_of
from graftlm.sites import Select
from graftlm.tasks import Encoded, Problem, TaskData
from graftlm.training import Keeping, Outcome, Plan, optimizers, train

RUN = "run"


def fit(config: FitConfig, reporter: Reporter | None = None) -> RunRecord:
    """Trains a run and writes its folder: `run.json`, `metrics.json`, `history.jsonl` and `adapter/`.

    Everything that can be wrong with the options is found before anything is written; a UserError names it.
    A signal that stops the run raises `Stopped`, with the run saved for `resume`.
    """
    reporter = reporter or Silent()
    with RunFolder(Path(config.out), reporter, config.training.keep_checkpoints) as folder:
        folder.claim(config.overwrite)
        return _train(config, folder, reporter, folder.begin)


def resume(out: str | Path, reporter: Reporter | None = None) -> RunRecord:
    """Goes on with a run from its last checkpoint, and ends as if it had never been left.

    A run that is done is left as it is. A UserError says where the base or the data are no longer the same.
    """
    reporter = reporter or Silent()
    with RunFolder(Path(out), reporter) as folder:
        folder.reopen()
        config = FitConfig.parse({**folder.record["config"], "out": str(out)})
        folder.keep = config.training.keep_checkpoints
        if folder.record["state"] == "done":
            reporter.line(f"{out} is done")
            drop_states(folder.path, folder.keep)
            return _done(folder)
        with threads(folder.record["machine"]["threads"]):
            return _train(config, folder, reporter, folder.go_on)


def _train(
    config: FitConfig, folder: RunFolder, reporter: Reporter, enter: Callable[[Mapping[str, Any]], None]
) -> RunRecord:
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
    accelerator = accelerator_of(config)
    model, peft = _assemble(config, base, method, problem, accelerator.device, reporter)
    model.cache = default_folder() if config.data.cache else None
    stopper = Stopper()
    plan, losses, max_length = _plan(config, model, data, method, stopper, reporter)
    warn_of_memory(model, RUN, plan, reporter)
    started = _started(config, method, origin(data, base.fingerprint, accelerator.device))
    with stopper, explained(folder):
        enter(started)
        with folder.history() as history, halting(folder, stopper):
            plan.record = history.write
            accelerator.init_trackers("graftlm", config=None)
            keeping = Keeping(
                lambda found: folder.save(found, history),
                config.training.save_steps,
                config.training.save_seconds,
                folder.start,
                stopper.asked,
            )
            outcome = train(losses, {RUN: plan}, accelerator, reporter, keeping)[RUN]
            accelerator.end_training()
        record = _save(config, folder, model, data, method, outcome, peft, max_length, started, reporter)
    if stopper.signal is not None:
        raise Stopped(f"{folder.path} was done when it was asked to stop", stopper.signal)
    return record


def _started(config: FitConfig, method: methods.MethodConfig, found: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` holds from the first step on."""
    resolved = {"method": {"name": method.method, **method.model_dump(mode="json")}}
    return {"config": config.model_dump(mode="json") | resolved, "seed": config.seed, **found}


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


def _plan(
    config: FitConfig,
    model: TaskModel,
    data: TaskData,
    method: methods.MethodConfig,
    stopper: Stopper,
    reporter: Reporter,
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
        evaluate=_evaluator(config, model, watched, Watched(stopper.asked)) if validation else None,
        metric=metric,
        better=(lambda new, old: new < old) if worse_is_more else (lambda new, old: new > old),
    )
    model.attached.train()

    def losses(rows: Mapping[str, Any], steps: Mapping[str, int]) -> dict[str, Tensor]:
        if not model.attached.training:
            model.attached.train()
        return model.losses(rows, steps, {RUN: given.rows}, {RUN: targets})

    return plan, losses, max_length


def _evaluator(
    config: FitConfig, model: TaskModel, watched: Encoded, quiet: Watched
) -> Callable[[], Mapping[str, float]]:
    size = config.training.eval_batch_size

    def evaluate() -> Mapping[str, float]:
        nonlocal size
        logits, size = shrinking(lambda rows: model.logits(watched.rows, RUN, rows, quiet, "evaluate"), size)
        model.problem = model.task.tuned(logits, watched, model.problem)
        return model.metrics(logits, watched)

    return evaluate


def _save(
    config: FitConfig,
    folder: RunFolder,
    model: TaskModel,
    data: TaskData,
    method: methods.MethodConfig,
    outcome: Outcome,
    peft: methods.PeftForm | None,
    max_length: int,
    started: Mapping[str, Any],
    reporter: Reporter,
) -> RunRecord:
    """Writes what the run has come to, `run.json` last. One that failed keeps its best weights, if it has any."""
    out, best = folder.path, dict(outcome.best or {})
    primary = model.task.measures(model.problem)[0]
    answers = _answers(config, model, data, max_length, reporter)
    tensors = model.attached.kept(RUN)
    folder.check()
    if best or not outcome.failed:
        save_adapter(out / "adapter", _card(config, model, data, method, max_length, best), tensors, peft)
    if best:
        write_json(out / "metrics.json", {"split": "validation", "metrics": best, "primary": primary})
    record = {
        **started,
        "parameters": _counts(model, tensors),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "stopped": outcome.stopped,
        "passes_per_batch": outcome.pieces,
        "timing": {
            "total_seconds": round(folder.seconds, 3),
            "train_seconds": round(outcome.seconds, 3),
            "train_examples_per_second": round(outcome.examples / max(outcome.seconds, 1e-9), 2),
        },
        "peak_memory_bytes": peak_memory(),
    }
    if outcome.failed:
        folder.end(record, "failed")
        kept = f"; {out / 'adapter'} holds its best weights, of step {outcome.best_step}" if best else ""
        raise UserError(f'run "{RUN}" stopped: {outcome.stopped}{kept}')
    if answers is not None:
        write_jsonl(out / "predictions.jsonl", answers)
    folder.end(record, "done")
    return _record(out, best, primary, record)


def _done(folder: RunFolder) -> RunRecord:
    """The record of a run that is done."""
    card = load_card(folder.path)
    problem = problem_of(card)
    return _record(folder.path, card.metrics, problem.module.measures(problem)[0], folder.record)


def _record(out: Path, metrics: Mapping[str, float], primary: str, record: Mapping[str, Any]) -> RunRecord:
    seconds = record["timing"]["total_seconds"]
    return RunRecord(out, metrics, primary, record["parameters"], seconds, record["steps"], record["stopped"], record)


def _card(
    config: FitConfig,
    model: TaskModel,
    data: TaskData,
    method: methods.MethodConfig,
    max_length: int,
    best: Mapping[str, float],
) -> Card:
    stored = methods.kept(method)
    return Card(
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
