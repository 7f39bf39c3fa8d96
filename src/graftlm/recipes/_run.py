"""Runs of one task on one base: read from their configs, attached together, and what each needs to be trained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base
from graftlm.core.errors import UserError, unknown
from graftlm.core.reporter import Reporter
from graftlm.core.settings import FitConfig, PromptConfig
from graftlm.prompts import Seen, needs, parse
from graftlm.recipes._building import build, speaking
from graftlm.recipes._cached import default_folder
from graftlm.recipes._memory import refuse_oversized
from graftlm.recipes._model import TaskModel
from graftlm.recipes._peft import method_form, run_form
from graftlm.recipes._prompt_head import PromptHead, asking_for, check_formulation, reading
from graftlm.recipes._seen import drawn, look, words_said
from graftlm.recipes._signals import Stopping
from graftlm.recipes._speed import choose_kernels, keep_bottom, warn_of_bf16
from graftlm.recipes._watched import Watched, shrinking
from graftlm.recipes._writing import asked_by
from graftlm.sites import Select, Sites, halve
from graftlm.tasks import Encoded, Guessed, Problem, TaskData, Written
from graftlm.training import Losses, Plan, optimizers

OWN = "own"  # the base's own LM head, whichever it has


@dataclass(frozen=True)
class Run:
    """What one run was asked for, checked, and its data."""

    name: str
    config: FitConfig
    method: methods.MethodConfig
    problem: Problem
    data: TaskData

    @property
    def base_head(self) -> str | None:
        """The head that the base is loaded with."""
        return self.problem.base_head if self.config.prompt is None else OWN

    @property
    def resolved(self) -> dict[str, Any]:
        """Its config with all options of its method."""
        method = {"name": self.method.method, **self.method.model_dump(mode="json")}
        return self.config.model_dump(mode="json") | {"method": method}


@dataclass
class Job:
    """A run on its base. `model` shares base and head with the runs beside it; what its task tunes is its own."""

    run: Run
    model: TaskModel
    peft: methods.PeftForm | None
    given: Encoded
    watched: Encoded
    targets: Tensor
    max_length: int
    plan: Plan


def fields_of(config: FitConfig) -> tuple[str, ...]:
    """The fields of a run's template."""
    return parse(config.prompt.template).fields if config.prompt is not None else ()


def read(
    name: str,
    config: FitConfig,
    reporter: Reporter,
    data: TaskData | None = None,
    fields: Sequence[str] | None = None,
) -> Run:
    """Checks a run's options and reads its data, unless those are given; a UserError names what is wrong.

    `fields` are those of its template, or more.
    """
    problem = tasks.parse({k: v for k, v in config.task.items() if k != "name"}, str(config.task["name"]))
    method = methods.parse(str(config.method["name"]), {k: v for k, v in config.method.items() if k != "name"})
    _known_optimizer(config)
    if config.prompt is not None:
        check_formulation(problem, config.head)
        problem = asking_for(problem, config.prompt)
    if data is None:
        fields = fields or fields_of(config)
        loading = reading(problem, fields) if config.prompt is not None else problem
        data = tasks.load(config.data, loading, splits=("train", "validation"), fields=fields)
        for note in data.notes:
            reporter.line(note)
    if config.prompt is not None:
        prompt = config.prompt.model_copy(update={"aliases": data.aliases})
        config = config.model_copy(update={"prompt": prompt})
    problem = replace(problem, labels=data.labels)
    _known_metric(config, problem)
    return Run(name, config, methods.with_labels(method, data.labels), problem, data)


def fields_of_all(configs: Iterable[FitConfig]) -> list[str]:
    """The fields of all runs' templates."""
    return list(dict.fromkeys(name for config in configs for name in fields_of(config)))


def read_all(
    configs: Mapping[str, FitConfig],
    reporter: Reporter,
    fields: Sequence[str],
    refuse: Callable[[str, UserError], None] | None = None,
) -> list[Run]:
    """All runs, checked; runs on the same examples share them. `fields` are those of all templates.

    `refuse` is told of a run that cannot be, which is then left out.
    """
    loaded: dict[tuple[str, bool], TaskData] = {}
    found = []
    for name, own in configs.items():
        key = own.data.model_dump_json(), own.prompt is None
        try:
            run = read(name, own, reporter, loaded.get(key), fields)
        except UserError as error:
            if refuse is None:
                raise
            refuse(name, error)
            continue
        loaded[key] = run.data
        found.append(run)
    return found


def selects(method: methods.MethodConfig, sites: Sites) -> bool:
    """Whether a method trains the base itself, and so shares it with no other run."""
    return any(isinstance(act, Select) for act in methods.acts(method, sites))


def casts(runs: Sequence[Run], base: Base) -> bool:
    """Whether the base's own weights are trained, in fp32, so that bf16 means casting them anew in each step."""
    return any(selects(run.method, base.sites()) for run in runs)


def jobs(
    runs: Sequence[Run], base: Base, device: torch.device, stopper: Stopping, reporter: Reporter
) -> dict[str, Job]:
    """Attaches runs with the same head, task and training to a fresh base; gives what each needs, by name."""
    model, forms = _assemble(runs, base, device, reporter)
    found = {run.name: _job(run, replace(model), forms[run.name], stopper, reporter) for run in runs}
    _quicken(model, found, reporter)
    model.attached.train()
    return found


def _quicken(model: TaskModel, found: Mapping[str, Job], reporter: Reporter) -> None:
    """Has the shared base computed as the first run's settings say."""
    training = next(iter(found.values())).run.config.training
    plans = {name: job.plan for name, job in found.items()}
    if training.precision == "bf16":
        warn_of_bf16(model, reporter)
    choose_kernels(model, training, plans)
    rows = [row for job in found.values() for encoded in (job.given, job.watched) for row in encoded.rows]
    keep_bottom(model, training, plans, rows, reporter)
    for job in found.values():
        job.model.kernels, job.model.bottom = model.kernels, model.bottom


def losses_of(found: Mapping[str, Job]) -> Losses:
    """The losses of runs that share a base."""
    model = next(iter(found.values())).model
    rows_of = {name: job.given.rows for name, job in found.items()}
    targets = {name: job.targets for name, job in found.items()}
    problems = {name: job.model.problem for name, job in found.items()}

    def losses(rows: Mapping[str, Sequence[int]], steps: Mapping[str, int]) -> Mapping[str, Tensor]:
        if not model.attached.training:
            model.attached.train()
        return model.losses(rows, steps, rows_of, targets, problems)

    return losses


def _assemble(
    runs: Sequence[Run], base: Base, device: torch.device, reporter: Reporter
) -> tuple[TaskModel, dict[str, methods.PeftForm | None]]:
    first, config = runs[0], runs[0].config
    set_seed(config.seed)
    sites = base.sites()
    if sites.notice:
        reporter.warn(sites.notice)
    if config.training.gradient_checkpointing and sites.table is not None and not sites.table.checkpointing:
        raise UserError(
            f'gradient_checkpointing = true, but Transformers has none for "{sites.family}"; a smaller batch_size with '
            "training.accumulation needs less memory too"
        )
    own, seeds = {run.name: run.method for run in runs}, {run.name: run.config.seed for run in runs}
    refuse_oversized(own, sites, device)
    forms = {run.name: method_form(run.method, sites) for run in runs}
    if config.training.precision == "bf16" and not casts(runs, base):
        halve(base.model.parameters())
    base.model.to(device)  # pyright: ignore[reportArgumentType]
    prompts = {run.name: run.config.prompt for run in runs if run.config.prompt is not None}
    found = {run.name: _looked(run, prompt, base) for run in runs if (prompt := run.config.prompt) and needs(prompt)}
    for name, (prompt, _) in found.items():
        prompts[name] = prompt
        if said := words_said(prompt):
            reporter.line(said)
    model = build(base, own, config.head, first.problem, seeds, prompts)
    if model.speaker is not None and (asked := asked_by(model.attached.base)):
        said = ", ".join(f"{name} = {value}"[:80] for name, value in asked.items())
        reporter.line(f"the model's own generation config holds for its texts: {said}")
    if isinstance(model.head, PromptHead):
        for name, (_, seen) in found.items():
            model.head.start(name, seen)
    model.cache = default_folder() if config.data.cache else None
    if config.training.gradient_checkpointing:
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    if config.training.base_dropout:
        model.attached.base_dropout(True)
    return model, {name: run_form(form, model, config.head, name) for name, form in forms.items()}


def _looked(run: Run, prompt: PromptConfig, base: Base) -> tuple[PromptConfig, Seen]:
    """A prompt whose verbalizer is found in what the base foresees on the run's training examples, and that."""
    config, training = run.config, run.config.training
    examples = drawn(run.data.splits["train"], config.seed, labelled=needs(prompt) == "labels")
    method = {run.name: run.method}
    return look(base, method, prompt, run.problem, examples, config.seed, training.max_length, training.eval_batch_size)


def _own_rate(model: TaskModel, run: str) -> float | None:
    """The learning rate of a verbalizer that has one of its own."""
    return model.head.prompts[run].verbalizer.rate if isinstance(model.head, PromptHead) else None


def _job(run: Run, model: TaskModel, peft: methods.PeftForm | None, stopper: Stopping, reporter: Reporter) -> Job:
    config, name = run.config, run.name
    speaks = run.problem.base_head is not None
    model.problem = speaking(run.problem, model.base, model.attached) if speaks else run.problem
    train_set, validation = run.data.splits["train"], run.data.splits.get("validation", [])
    strict = not config.data.skip_bad
    given = model.encode(train_set, name, config.training.max_length, learned=True, strict=strict)
    if speaks or model.task.HEAD == "tokens":
        given = given.learnable(model.task.goals(given), strict=strict)
    watched = model.encode(validation, name, config.training.max_length)
    for split, encoded in (("train", given), ("validation", watched)):
        for note in encoded.notes:
            reporter.warn(f"{split}: {note}")
    for note in model.head.prompts[name].verbalizer.notes if isinstance(model.head, PromptHead) else ():
        reporter.warn(note)
    if not validation:
        reporter.warn("no validation split: nothing is evaluated, and the last weights are kept")
    rate = config.training.learning_rate or methods.learning_rate(run.method)
    writes = run.problem.base_head == "lm"
    metric = config.training.metric or ("loss" if writes else model.task.measures(model.problem)[0])
    worse_is_more = metric in model.task.LOWER_IS_BETTER
    plan = Plan(
        parameters=model.attached.parameters_of(name),
        lengths=[row.length + len(model.virtual[name]) for row in given.rows],
        config=config.training,
        seed=config.seed,
        rate=rate,
        head_rate=config.training.head_learning_rate or _own_rate(model, name) or rate,
        rates=model.attached.rates_of(name),
        decayed=model.attached.decayed_of(name),
        evaluate=_evaluator(run, model, watched, metric, Watched(stopper.asked)) if validation else None,
        metric=metric,
        better=(lambda new, old: new < old) if worse_is_more else (lambda new, old: new > old),
        compares=model.task.HEAD == "vectors",
    )
    max_length = config.training.max_length or model.limits[name]
    return Job(run, model, peft, given, watched, model.task.goals(given), max_length, plan)


def _evaluator(
    run: Run, model: TaskModel, watched: Encoded, metric: str, quiet: Watched
) -> Callable[[], Mapping[str, float]]:
    """Metrics on validation; texts are written only where one of theirs is the metric that weights are chosen by."""
    size = run.config.training.eval_batch_size
    alone = metric == "loss"

    def answer(rows: int) -> Tensor | Written | Guessed:
        return model.answer(watched, run.name, rows, quiet, "evaluate", loss_alone=alone)

    def evaluate() -> Mapping[str, float]:
        nonlocal size
        found, size = shrinking(answer, size)
        model.problem = model.task.tuned(found, watched, model.problem)
        return model.metrics(found, watched)

    return evaluate


def _known_metric(config: FitConfig, problem: Problem) -> None:
    metric, known = config.training.metric, problem.module.measures(problem)
    if metric is not None and metric not in known:
        raise unknown("metric", metric, known)


def _known_optimizer(config: FitConfig) -> None:
    known = optimizers()
    if config.training.optimizer not in known:
        raise unknown("optimizer", config.training.optimizer, known)
