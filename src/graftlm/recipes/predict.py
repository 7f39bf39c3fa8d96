"""One job: load a run beside its base, and ask it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from graftlm import methods, tasks
from graftlm.checkpoint import Base, Card, check_files, load_base, load_card, load_tensors
from graftlm.core.errors import UserError, check_whole
from graftlm.core.example import Example
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import HeadConfig, Precision
from graftlm.prompts import parse
from graftlm.recipes._building import build
from graftlm.recipes._model import TaskModel
from graftlm.recipes._peft import with_head
from graftlm.recipes._speed import lower
from graftlm.tasks import Encoded, Problem

RUN, OWN = "run", "own"  # the base's own LM head, whichever it has
Text = str | tuple[str, str] | Example


class Predictor:
    """A finished run, ready to be asked. `reporter` is told where a method is given none."""

    def __init__(self, card: Card, model: TaskModel, reporter: Reporter):
        self.card = card
        self.model = model
        self.reporter = reporter

    @property
    def labels(self) -> tuple[str, ...]:
        return self.card.labels

    def predict(
        self, texts: Sequence[Text], batch_size: int = 64, reporter: Reporter | None = None
    ) -> list[dict[str, Any]]:
        """One answer a text, in order: {"label", "probabilities"}, {"score"}, or what the task's `decode` says.

        A text is a string, a pair of strings for a pair task, or an Example.
        """
        if isinstance(texts, str):
            raise UserError("predict takes a list of texts; put the one text into a list")
        examples = [self._example(text, place) for place, text in enumerate(texts)]
        encoded = self.encode(examples, reporter)
        answer = self.model.answer(encoded, RUN, batch_size, reporter or self.reporter, "predict")
        if isinstance(answer, Tensor):
            bad = (~answer.isfinite().flatten(1).all(-1)).nonzero().flatten().tolist()
            if bad:
                place = encoded.owners[bad[0]] + 1
                raise UserError(f"this run gives no finite number for input {place}: its training diverged")
        return self.model.task.decode(answer, encoded, self.model.problem)

    def rank(
        self,
        queries: Sequence[Text],
        candidates: Sequence[Text],
        top: int = 10,
        batch_size: int = 64,
        reporter: Reporter | None = None,
    ) -> list[dict[str, Any]]:
        """For each query the nearest candidates, best first: {"best": [{"text", "score"}]}, with ids that they have.

        A score is the cosine of the two vectors. A run of another task than matching is refused.
        """
        if self.model.task.HEAD != "vectors":
            raise UserError(f"this run was trained on {self.card.task}; a run of matching ranks candidates")
        for name, texts in (("queries", queries), ("candidates", candidates)):
            if isinstance(texts, str):
                raise UserError(f"rank takes lists of texts; put the one text of {name} into a list")
        if top < 1:
            raise UserError(f"top = {top}; 1 is the fewest candidates that are given")
        if not len(queries) or not len(candidates):
            return [{"best": []} for _ in queries]
        given = [self._example(text, place) for place, text in enumerate(candidates)]
        one, other = (self.logits(own, batch_size, reporter)[:, 0] for own in (self._bare(queries), self._bare(given)))
        answers: list[dict[str, Any]] = []
        for query in one:
            scores = other @ query
            order = scores.argsort(descending=True, stable=True)[:top].tolist()
            answers.append({"best": [_ranked(given[place], float(scores[place])) for place in order]})
        return answers

    def _bare(self, texts: Sequence[Text]) -> list[Example]:
        examples = [self._example(text, place) for place, text in enumerate(texts)]
        return [replace(example, answer=None) for example in examples]

    def logits(self, examples: Sequence[Example], batch_size: int = 64, reporter: Reporter | None = None) -> Tensor:
        """Logits (rows outputs) in order, a row an example or, for a task of tokens, (rows places outputs)."""
        rows = self.encode(examples, reporter).rows
        return self.model.logits(rows, RUN, batch_size, reporter or self.reporter, "predict")

    def encode(self, examples: Sequence[Example], reporter: Reporter | None = None) -> Encoded:
        """The examples' rows; what was cut of texts longer than the model takes is said."""
        encoded = self.model.encode(examples, RUN, self.card.max_length)
        for note in encoded.notes:
            (reporter or self.reporter).warn(note)
        return encoded

    def gates(self, texts: Sequence[Text], batch_size: int = 64, reporter: Reporter | None = None) -> dict[str, Tensor]:
        """How far the run's gates open, 0 to 1: `layer.role.part` -> a text's (its first window's), in order."""
        examples = [self._example(text, place) for place, text in enumerate(texts)]
        encoded = self.encode(examples, reporter)
        rows = self.model.gates(encoded.rows, RUN, batch_size, reporter or self.reporter)
        firsts = [encoded.windows[place][0] for place in range(len(examples))]
        found = {name: values[firsts] for name, values in rows.items()}
        if not found:
            raise UserError(f"this run has no gates: its method is {self.card.method['name']}; unipelt has them")
        return found

    def _example(self, text: Text, place: int) -> Example:
        example = _given(text, place)
        if (example.text_pair is not None) != self.card.pair:
            wanted, given = ("pairs of texts", "one text") if self.card.pair else ("single texts", "a pair")
            raise UserError(f"this run was trained on {wanted}, but input {place + 1} is {given}")
        return example


def _given(text: Any, place: int) -> Example:
    """A text, a pair or an Example as that; anything else is refused by its place."""
    found = text
    if isinstance(text, str):
        found = Example(text)
    elif isinstance(text, list | tuple) and len(text) == 2 and all(isinstance(side, str) for side in text):
        found = Example(text[0], text[1])
    if not isinstance(found, Example):
        kind = type(text).__name__
        raise UserError(f"input {place + 1} is {str(text)[:40]!r}, of type {kind}; a text or a pair would work")
    for side in (found.text, found.text_pair or ""):
        check_whole(side, f"input {place + 1}")
    return found


def _ranked(candidate: Example, score: float) -> dict[str, Any]:
    name = {} if candidate.id is None else {"id": candidate.id}
    return {**name, "text": candidate.text, "score": score}


def load(
    run: str | Path,
    reporter: Reporter | None = None,
    *,
    strength: float = 1.0,
    task: Mapping[str, Any] | None = None,
    fold: bool = False,
    precision: Precision = "fp32",
) -> Predictor:
    """A run's folder (or its adapter's) as a Predictor; refuses another base than it was trained on.

    `strength` scales what a method on layers adds to their outputs: 1 is as trained, 0 the bare base under the head.
    `task` are options of the run's task, as {"beams": 4}, in place of those that it was trained with. `fold`: a run
    that can be merged is, so that asking it costs what asking the bare base does; its tensors are not read again then.
    `precision`: the base's weights, in fp32 whatever the run was trained in, or in bf16, which many processors read
    faster.
    """
    reporter = reporter or Warned()
    path = Path(run)
    card, base, method = opened(path)
    form = methods.peft_form(method, base.sites()) if card.layout == "peft" else None
    head = HeadConfig.parse(card.head, where="head.")
    prompts = {RUN: card.prompt} if card.prompt is not None else None
    model = build(base, {RUN: method}, head, problem_of(card, task or {}), {RUN: card.seed}, prompts)
    whole = None if form is None else with_head(form, model, head)
    model.attached.load(RUN, load_tensors(path, card, whole))
    if strength != 1:
        model.attached.strengthen(RUN, strength)
    elif fold:
        model.attached.fold(RUN)
    lower(model, precision, reporter)
    model.attached.quicken()
    return Predictor(card, model, reporter)


def fields_of(card: Card) -> tuple[str, ...]:
    """The columns that a run's template has fields for, beside the texts."""
    if card.prompt is None:
        return ()
    return tuple(name for name in parse(card.prompt.template).fields if name not in card.prompt.aliases)


def problem_of(card: Card, options: Mapping[str, Any] | None = None) -> Problem:
    """A run's task, with its options, or others in their place, and what was tuned."""
    return tasks.parse({**card.options, **(options or {})}, card.task, card.labels, card.tuned)


def opened(run: Path) -> tuple[Card, Base, methods.MethodConfig]:
    """A run's card, its base with nothing attached, and its method."""
    card = load_card(run)
    check_files(run, card)
    base = load_base(card.model, head=OWN if card.prompt is not None else problem_of(card).base_head)
    if base.fingerprint != card.fingerprint:
        raise UserError(
            f'{run} was trained on another "{card.model}": its fingerprint is {card.fingerprint}, '
            f"that of the model found here is {base.fingerprint}"
        )
    options = {key: value for key, value in card.method.items() if key != "name"}
    return card, base, methods.parse(str(card.method["name"]), options)
