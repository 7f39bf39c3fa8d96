"""One job: read an adapter that PEFT wrote into a run's folder of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base, Card, load_base, load_peft, save_adapter
from graftlm.core.errors import UserError
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import HeadConfig
from graftlm.recipes._building import build
from graftlm.recipes._model import TaskModel
from graftlm.recipes._peft import method_form, prompted, run_form, segment_notes, token_keys
from graftlm.recipes.predict import RUN
from graftlm.tasks import SequenceHead, head_keys

LANGUAGE = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
TASKS = {
    "SEQ_CLS": ("classification", "regression"),
    "TOKEN_CLS": ("tagging",),
    "QUESTION_ANS": ("spans",),
    **dict.fromkeys(LANGUAGE, ("generation",)),
}
KINDS = (("span",), ("span", "none"))  # the labels of spans


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
    """Writes `out/adapter` from a PEFT folder with a classifier, or for a model with an LM head, and gives `out`.

    `model` is the folder's own base unless given. `task` is classification, or regression where there is one output;
    tagging of a TOKEN_CLS folder, spans of a QUESTION_ANS one; of a CAUSAL_LM or SEQ_2_SEQ_LM folder it is generation,
    whose `options`, as {"prompt": …}, PEFT does not keep. PEFT keeps no labels: without `labels` they are "0", "1", …,
    and of spans "span" (give "span" and "none" where a question may have no answer). Everything that would change
    results and that we cannot say is refused by name; nothing is written then.
    """
    reporter = reporter or Warned()
    source, target = Path(folder), Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty; name another folder")
    body, tensors = load_peft(source)
    speaks = _speaks(body, task, source)
    base = load_base(_model(body, model, source), head="lm" if speaks else None)
    if not speaks:
        _layer(base, task or _usual(body.get("task_type")))  # a class that is not known may name every layer otherwise
    theirs = methods.from_peft(body, tensors, base.sites())
    for note in theirs.notes:
        reporter.line(note)
    task, chosen = (
        ("generation", ()) if speaks else _decides(theirs, base, body.get("task_type"), task, labels, reporter)
    )
    if speaks and labels:
        raise UserError(f"labels = {', '.join(labels)}, but generation has none")
    problem = tasks.parse(options or {}, task, chosen)
    form = method_form(theirs.config, base.sites())
    head = HeadConfig() if speaks else HeadConfig(pooling=_pooling(theirs.config, base, task))
    built = build(base, {RUN: theirs.config}, head, problem, {RUN: 0})
    for note in segment_notes(built):
        reporter.line(note)
    keys = {} if speaks else _head_keys(built, theirs.rest)
    _only(theirs.rest, keys, built, reporter)
    ours = {**theirs.tensors, **{name: theirs.rest[path] for name, path in keys.items()}}
    built.attached.load(RUN, ours)
    card = Card(
        task=task,
        labels=chosen,
        pair=task == "spans",
        method={"name": theirs.config.method, **theirs.config.model_dump(mode="json")},
        head=head.model_dump(mode="json"),
        model=base.source.name,
        fingerprint=base.fingerprint,
        max_length=built.limits[RUN],
        seed=0,
        options=built.problem.options.model_dump(mode="json"),
    )
    save_adapter(target / "adapter", card, ours, run_form(form, built, head))
    return target


def _speaks(body: Mapping[str, Any], task: str | None, source: Path) -> bool:
    """Whether the folder is for a model with its LM head; refuses a kind of which no task is made here, or another."""
    kind: str | None = body.get("task_type")
    every = list(dict.fromkeys(name for names in TASKS.values() for name in names))
    if task is not None and task not in every:
        tasks.task(task)  # an unknown name is refused with the nearest
        raise UserError(f"an adapter of PEFT's cannot be read for {task}, only for {', '.join(every)}")
    if task is None and kind not in (None, *TASKS):
        raise UserError(
            f"{source} is an adapter for {kind}, and a run is for one of {', '.join(every)}; in Python, "
            "graftlm.methods.from_peft reads it for a model of your own"
        )
    own = TASKS.get(kind or "", every)
    if task is not None and task not in own:
        raise UserError(f"task = {task}, but {source} is an adapter for {kind}, which is {' or '.join(own)}")
    return kind in LANGUAGE or task == "generation"


def _decides(
    theirs: methods.Theirs, base: Base, kind: str | None, task: str | None, labels: Sequence[str], reporter: Reporter
) -> tuple[str, tuple[str, ...]]:
    """The task of a folder with a head, and its labels."""
    first = _usual(kind)
    layer = _layer(base, task or first)
    name = f"{layer}.weight"
    if name not in theirs.rest:
        held = ", ".join(sorted(theirs.rest)[:3]) or "no head at all"
        other = "" if kind or task or theirs.rest else "; if it is for a model with an LM head, name --task generation"
        raise UserError(f"the adapter's file holds no {name}, without which it decides nothing; it holds {held}{other}")
    outputs = int(theirs.rest[name].shape[0])
    task = task or ("regression" if outputs == 1 and first == "classification" else first)
    return task, _labels(task, labels, outputs, reporter)


def _usual(kind: str | None) -> str:
    """The task of a folder that says no other."""
    return TASKS.get(kind or "", TASKS["SEQ_CLS"])[0]


def _model(body: Mapping[str, Any], model: str | None, source: Path) -> str:
    name = model or body.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{source} does not say which model it is for; name it with --model")
    return str(name)


def _layer(base: Base, task: str) -> str:
    """The last layer of the family's class for a task."""
    family = base.sites().head
    if family is None:
        raise UserError(f'the architecture "{base.sites().family}" has no table, so its classifier is not known')
    layer = {"tagging": family.tagger, "spans": family.answerer}.get(task, family.classifier)
    if layer is None:
        raise UserError(
            f"the class of {base.sites().family} that PEFT has for {task} is not known here; train it anew with "
            "graftlm fit"
        )
    return layer


def _labels(task: str, labels: Sequence[str], outputs: int, reporter: Reporter) -> tuple[str, ...]:
    if task == "spans":
        if outputs != 2 or tuple(labels) not in ((), *KINDS):
            raise UserError(
                f"task = spans needs two outputs and the labels span, or span,none; the adapter's head has {outputs} "
                f"and labels = {', '.join(labels) or 'none given'}"
            )
        return tuple(labels) or KINDS[0]
    if task == "regression":
        if labels:
            raise UserError(f"labels = {', '.join(labels)}, but regression has none")
        if outputs != 1:
            raise UserError(f"task = regression needs one output, but the adapter's head has {outputs}")
        return ()
    if not labels:
        reporter.warn(f'PEFT keeps no labels, so the {outputs} are called "0", "1", …; name them with --labels')
        return tuple(map(str, range(outputs)))
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f'labels = {", ".join(labels)}: "{twice}" stands twice; name {outputs} that differ')
    if len(labels) != outputs:
        raise UserError(f"labels = {', '.join(labels)}: {len(labels)} names, but the head has {outputs} outputs")
    return tuple(labels)


def _pooling(method: methods.MethodConfig, base: Base, task: str) -> Any:
    """PEFT counts a prompt's virtual tokens when a head pools, which shows unless it takes the last one."""
    sites = base.sites()
    if not prompted(methods.acts(method, sites)):
        return "default"
    if task in ("tagging", "spans"):
        raise UserError(f"virtual tokens move the places that {task} reads, in PEFT; a run has no such")
    return "virtual" if sites.head is not None and sites.head.pool != "last" else "default"


def _head_keys(model: TaskModel, rest: Mapping[str, Tensor]) -> Mapping[str, str]:
    """The parameters of the family's own head by our names."""
    sites = model.attached.sites
    assert sites.head is not None
    if isinstance(model.head, SequenceHead):
        keys = head_keys(model.head, sites.head, sites.class_prefix)
    else:
        keys = token_keys(_layer(model.base, model.problem.task))
    missing = [path for path in keys.values() if path not in rest]
    if missing:
        raise UserError(
            f"the adapter's file lacks {missing[0]}, which the base does not have either, so it was random when the "
            "adapter was trained; save it with modules_to_save in PEFT"
        )
    return keys


def _only(rest: Mapping[str, Tensor], keys: Mapping[str, str], model: TaskModel, reporter: Reporter) -> None:
    """Refuses what is neither the head's nor the base's own, which PEFT stores beside an embedding's LoRA."""
    sites = model.attached.sites
    own = dict(sites.model.state_dict())
    for path in sorted(rest.keys() - set(keys.values())):
        name = path.removeprefix(sites.class_prefix)
        frozen = next((own[key] for key in (name, path, _hosted(name), _hosted(path)) if key in own), None)
        if frozen is None or not torch.equal(frozen.to(rest[path].dtype), rest[path]):  # theirs may be a half's
            raise UserError(
                f"the adapter's file holds {path}, trained anew beside the method; a run has no place for it: merge it "
                "into the base in PEFT first"
            )
        reporter.line(f"{path} is the base's own and is not kept")


def _hosted(name: str) -> str:
    """A parameter's name where its layer has a host around it."""
    path, _, leaf = name.rpartition(".")
    return f"{path}.inner.{leaf}"
