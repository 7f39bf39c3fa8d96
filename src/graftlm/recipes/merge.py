"""One job: fold a run into its base and write a plain Transformers model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.checkpoint import load_config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.files import new_folder
from graftlm.core.reporter import Reporter, Warned
from graftlm.recipes.predict import RUN, Predictor, load
from graftlm.tasks import Features, SequenceHead, collate, fields, head_keys

TOLERANCE = 1e-4
PROBLEMS = {"regression": "regression", "multilabel": "multi_label_classification"}
PROBES = (
    "A short text.",
    "The quick brown fox jumps over the lazy dog, and then it does so once more for good measure!",
    "What is this? :)",
)


def merge(run: str | Path, to: str | Path, reporter: Reporter | None = None) -> Path:
    """Writes base and adapter as one folder that plain Transformers loads: a `…ForSequenceClassification`, or the class
    with the LM head where a run writes.

    The merge is made in fp32 and its logits are compared with the run's on a few texts before anything is written.
    A run whose method or pooling a plain model cannot express is refused, with the reason.
    """
    reporter = reporter or Warned()
    target = Path(to)
    if target.exists():
        raise UserError(f"{target} exists; name a new folder")
    predictor = load(run, reporter)
    if predictor.card.prompt is not None:
        raise UserError(
            f"{run} is asked by a template, which a plain model has no place for; graftlm export writes it for PEFT"
        )
    weights = predictor.model.attached.merged(RUN)
    writes = predictor.model.task.HEAD == "lm"
    expected = _written_logits(predictor) if writes else _logits(predictor)
    model = (_writer if writes else _plain)(predictor, weights).eval()
    found = _written_logits(predictor) if writes else _plain_logits(model, predictor)
    difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise UserError(
            f"the merged logits differ by {difference:.2g} (at most {allowed:.2g} is allowed); nothing is written"
        )
    with new_folder(target) as folder:
        model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        predictor.model.base.tokenizer.save_pretrained(folder)
    reporter.line(f"merged logits equal the run's to {difference:.1e}")
    return target


def _writer(predictor: Predictor, weights: dict[str, Tensor]) -> nn.Module:
    """The base itself, with its LM head, and the merged weights in place of its own."""
    base = predictor.model.attached.detach()
    own = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    return base


@torch.no_grad()
def _written_logits(predictor: Predictor) -> Tensor:
    """What the model, with the run or merged, foresees behind each probe."""
    model = predictor.model
    assert model.speaker is not None
    encoded = model.encode(
        [Example("", meta=_filled(predictor, text)) for text in PROBES], RUN, predictor.card.max_length
    )
    rows = [(Features(row.ids, None, answer=row.ids[:3]), model.virtual[RUN]) for row in encoded.rows]
    return torch.cat([model.speaker.logits([row])[0] for row in rows])


def _filled(predictor: Predictor, text: str) -> dict[str, Any]:
    names = fields(predictor.model.problem.options.prompt)
    return {"row": dict.fromkeys(names, text)}


def _plain(predictor: Predictor, weights: dict[str, Tensor]) -> nn.Module:
    """The family's sequence classifier with the merged weights and the run's head."""
    from transformers import AutoModelForSequenceClassification

    model, card = predictor.model, predictor.card
    names = card.labels or ("score",)
    if not isinstance(model.head, SequenceHead) or model.head.outputs != len(names):
        raise UserError(f"the head of {card.task} has no place in a plain sequence classifier; keep the adapter")
    family = model.attached.sites.head
    if family is None or card.head["pooling"] != "default":
        why = (
            f"pooling = {card.head['pooling']}"
            if family
            else f'an architecture without a table ("{model.attached.sites.family}")'
        )
        raise UserError(
            f"{why} has no place in a plain Transformers model; keep the adapter, or train with the default pooling"
        )
    config = load_config(model.base.source)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = PROBLEMS.get(card.task, "single_label_classification")
    if config.pad_token_id is None:
        config.pad_token_id = model.base.pad_id
    plain = AutoModelForSequenceClassification.from_config(config).float()
    heads = {path: f"{name}" for name, path in head_keys(model.head, family, model.attached.sites.class_prefix).items()}
    own = model.attached.parameters_of(RUN)
    base = model.attached.detach()
    prefix = model.attached.sites.class_prefix
    state = {f"{prefix}{name}": tensor for name, tensor in base.state_dict().items()}
    state |= {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    state |= {path: own[name].detach() for path, name in heads.items()}
    missing, unexpected = plain.load_state_dict(state, strict=False)
    if missing:
        raise UserError(f"{type(plain).__name__} has {len(missing)} tensors that the run lacks (first: {missing[0]})")
    idle = f"{prefix}pooler." if family.fresh else None  # a pooler that the family's classifier does not have
    unread = [name for name in unexpected if not (name.endswith("position_ids") or (idle and name.startswith(idle)))]
    if unread:
        raise UserError(
            f"{type(plain).__name__} has no place for {len(unread)} tensors of the run (first: {unread[0]})"
        )
    return plain


def _examples(predictor: Predictor) -> list[Example]:
    return [Example(text, PROBES[0] if predictor.card.pair else None) for text in PROBES]


def _logits(predictor: Predictor) -> Tensor:
    return predictor.logits(_examples(predictor))


@torch.no_grad()
def _plain_logits(model: nn.Module, predictor: Predictor) -> Tensor:
    """One text at a time, so that no family's own rule for padding plays a part."""
    features = predictor.model.encode(_examples(predictor), RUN, predictor.card.max_length).rows
    device = torch.device("cpu")
    batches = [collate([(row, [])], predictor.model.base.pad_id, device) for row in features]
    return torch.cat([model(**batch).logits for batch in batches])
