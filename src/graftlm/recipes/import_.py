"""One job: read an adapter that PEFT wrote into a run's folder of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base, Card, load_base, load_peft, save_adapter
from graftlm.core.errors import UserError
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.settings import HeadConfig
from graftlm.recipes._model import TaskModel, build
from graftlm.recipes._peft import method_form, run_form
from graftlm.recipes.predict import RUN
from graftlm.sites import Tokens
from graftlm.tasks import SequenceHead, head_keys


def import_peft(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    task: str | None = None,
    labels: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Path:
    """Writes `out/adapter` from a PEFT folder with a classifier, and gives `out`.

    `model` is the folder's own base unless given. `task` is classification, or regression where there is one output.
    PEFT keeps no labels: without `labels` they are "0", "1", … Everything that would change results and that we
    cannot say is refused by name; nothing is written then.
    """
    reporter = reporter or Silent()
    source, target = Path(folder), Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty; name another folder")
    body, tensors = load_peft(source)
    if task is None and body.get("task_type") not in ("SEQ_CLS", None):
        raise UserError(
            f"{source} is an adapter for {body['task_type']}, and a run is for classification or regression; in "
            "Python, graftlm.methods.from_peft reads it for a model of your own"
        )
    base = load_base(_model(body, model, source))
    theirs = methods.from_peft(body, tensors, base.sites())
    for note in theirs.notes:
        reporter.line(note)
    outputs = _outputs(theirs.rest, base)
    task = task or ("regression" if outputs == 1 else "classification")
    chosen = _labels(task, labels, outputs, reporter)
    form = method_form(theirs.config, base.sites())
    head = HeadConfig(pooling=_pooling(theirs.config, base))
    built = build(base, {RUN: theirs.config}, head, tasks.parse({}, task, chosen), {RUN: 0})
    ours = {**theirs.tensors, **_head(theirs.rest, built, reporter)}
    built.attached.load(RUN, ours)
    card = Card(
        task=task,
        labels=chosen,
        pair=False,
        method={"name": theirs.config.method, **theirs.config.model_dump(mode="json")},
        head=head.model_dump(mode="json"),
        model=base.source.name,
        fingerprint=base.fingerprint,
        max_length=built.limits[RUN],
        seed=0,
    )
    save_adapter(target / "adapter", card, ours, run_form(form, built, head))
    return target


def _model(body: Mapping[str, Any], model: str | None, source: Path) -> str:
    name = model or body.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{source} does not say which model it is for; name it with --model")
    return str(name)


def _classifier(base: Base) -> str:
    family = base.sites().head
    if family is None:
        raise UserError(f'the architecture "{base.sites().family}" has no table, so its classifier is not known')
    return family.classifier


def _outputs(rest: Mapping[str, Tensor], base: Base) -> int:
    name = f"{_classifier(base)}.weight"
    if name not in rest:
        held = ", ".join(sorted(rest)[:3]) or "no head at all"
        raise UserError(f"the adapter's file holds no {name}, without which it decides nothing; it holds {held}")
    return int(rest[name].shape[0])


def _labels(task: str, labels: Sequence[str], outputs: int, reporter: Reporter) -> tuple[str, ...]:
    if task not in ("classification", "regression"):
        tasks.task(task)  # an unknown name is refused with the nearest
        raise UserError(f"an adapter of PEFT's cannot be read for {task}; classification and regression can")
    if task == "regression":
        if labels:
            raise UserError(f"labels = {', '.join(labels)}, but regression has none")
        if outputs != 1:
            raise UserError(f"task = regression needs one output, but the adapter's head has {outputs}")
        return ()
    if not labels:
        reporter.warn(f'PEFT keeps no labels, so the {outputs} are called "0", "1", …; name them with --labels')
        return tuple(map(str, range(outputs)))
    if len(labels) != outputs or len(set(labels)) != outputs:
        raise UserError(f"labels = {', '.join(labels)}: {len(set(labels))} names, but the head has {outputs} outputs")
    return tuple(labels)


def _pooling(method: methods.MethodConfig, base: Base) -> Any:
    """PEFT counts a prompt's virtual tokens when a head pools, which shows unless it takes the last one."""
    sites = base.sites()
    prompted = any(isinstance(act, Tokens) for act in methods.acts(method, sites))
    return "virtual" if prompted and sites.head is not None and sites.head.pool != "last" else "default"


def _head(rest: Mapping[str, Tensor], model: TaskModel, reporter: Reporter) -> dict[str, Tensor]:
    """The head's tensors by our names; others must be the base's own, which PEFT stores beside an embedding's LoRA."""
    sites = model.attached.sites
    assert sites.head is not None
    assert isinstance(model.head, SequenceHead)
    keys = head_keys(model.head, sites.head, sites.class_prefix)
    missing = [path for path in keys.values() if path not in rest]
    if missing:
        raise UserError(
            f"the adapter's file lacks {missing[0]}, which the base does not have either, so it was random when the "
            "adapter was trained; save it with modules_to_save in PEFT"
        )
    own = dict(model.attached.sites.model.state_dict())
    for path in sorted(rest.keys() - set(keys.values())):
        name = path.removeprefix(sites.class_prefix)
        frozen = next((own[key] for key in (name, _hosted(name)) if key in own), None)
        if frozen is None or frozen.shape != rest[path].shape or not torch.equal(frozen.float(), rest[path].float()):
            raise UserError(
                f"the adapter's file holds {path}, trained anew beside the method; a run has no place for it: merge it "
                "into the base in PEFT first"
            )
        reporter.line(f"{path} is the base's own and is not kept")
    return {name: rest[path] for name, path in keys.items()}


def _hosted(name: str) -> str:
    """A parameter's name where its layer has a host around it."""
    path, _, leaf = name.rpartition(".")
    return f"{path}.inner.{leaf}"
