"""A text that follows from another, by any decoder or encoder-decoder with its own LM head.

The loss is that of the target's tokens and of the end behind them, their mean in each example. With w target tokens
y₁ … y_w: −1/w · Σ log p(y_i | prompt, y₁ … y_{i−1}).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _prompted, _rows, _templates
from graftlm.tasks._features import Encoded, Features, Reading
from graftlm.tasks._read import Table
from graftlm.tasks._task import Details, Given, Problem, TaskData
from graftlm.tasks._templates import Template
from graftlm.tasks._text_metrics import Metric, score
from graftlm.tasks._token_loss import goals_of, language_loss
from graftlm.tasks._written import Written

READS, HEAD, TUNES, SHOWN = "rows", "lm", False, "text"
LOWER_IS_BETTER = ("loss",)
loss = language_loss
REFERENCES = "references"
USUAL = (REFERENCES, "outputs")
FEWEST = 8  # tokens of a prompt


class Options(Config):
    """`prompt` and `target`: templates with a row's columns in braces. `chat`: the prompt is the user's turn by the
    tokenizer's chat template, which is stored with the run as `chat_template`, behind the words of `system`.

    `max_new_tokens`: the longest target and answer, their end included. `beams`: of beam search, 1 is greedy.
    `sample`: draw tokens at `temperature` from the likeliest that add up to `top_p`, for each text the same beside any
    others. `best`: answers given for each.
    `cache`: keep keys and values while writing. `metrics`: the first is a run's own; `bleu_tokenizer` is sacrebleu's.
    """

    prompt: Template = "{text}"
    target: Template = "{target}"
    chat: bool = False
    system: str = ""
    chat_template: str | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    sample: bool = False
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    best: PositiveInt = 1
    cache: bool = True
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("bleu", "chrf", "rougeL", "exact_match")
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = "13a"

    @model_validator(mode="after")
    def _fitting(self) -> "Options":
        if not self.sample and self.best > self.beams:
            raise ValueError(f"best = {self.best} needs as many beams, or sample = true; beams = {self.beams}")
        if self.sample and self.beams > 1:
            raise ValueError(f"sample = true draws, and beams = {self.beams} searches; leave one of them out")
        if self.system and not self.chat:
            raise ValueError("system is for chat = true")
        if self.chat_template is not None and not self.chat:
            raise ValueError("chat_template is for chat = true")
        for name in ("temperature", "top_p"):
            if getattr(self, name) != 1 and not self.sample:
                raise ValueError(f"{name} = {getattr(self, name)} is for sample = true")
        return self


def read(given: Given) -> TaskData:
    """Rows whose columns are the fields of the templates; a list of references beside them, if there is one."""
    options: Options = given.problem.options
    mapped = given.config.columns
    names = (*_templates.fields(options.prompt), *_templates.fields(options.target), REFERENCES, "id")
    _rows.known(names, mapped)
    splits: dict[str, list[Example]] = {}
    notes: list[str] = []
    for split, table in given.cut.items():
        prompt = _prompted.columns_of(options.prompt, "task.prompt", table, mapped)
        target = _prompted.columns_of(options.target, "task.target", table, mapped)
        several = _references(table, mapped, (*prompt.values(), *target.values()))
        names_id = mapped.get("id", "id")

        def row_of(row: int, table: Table = table, found: Any = (prompt, target, several, names_id)) -> Example:
            return _example(table, row, options, *found)

        splits[split], left_out = _rows.kept(table, row_of, given.config.skip_bad)
        said = {**prompt, **target, **({"references": several} if several else {})}
        notes += [_rows.said(said)] if not notes else []
        blank = sum(not example.meta["target"].strip() for example in splits[split])
        notes += left_out
        notes += [f"{blank} targets of {split} are empty"] if blank else []
    return TaskData(splits, (), False, tuple(dict.fromkeys(notes)))


def _references(table: Table, mapped: Mapping[str, str], taken: Sequence[str]) -> str | None:
    """The column of references: as it is mapped, or by a usual name where no template has it."""
    if REFERENCES in mapped:
        _rows.has(table, mapped[REFERENCES])
        return mapped[REFERENCES]
    return next((name for name in USUAL if name in table.columns and name not in taken), None)


def _example(
    table: Table,
    row: int,
    options: Options,
    prompt: Mapping[str, str],
    target: Mapping[str, str],
    several: str | None,
    names_id: str,
) -> Example:
    at = table.at(row)
    values, wanted = (
        {name: _prompted.cell(table.columns[theirs][row], at, theirs) for name, theirs in columns.items()}
        for columns in (prompt, target)
    )
    right = _templates.render(options.target, wanted)
    references = [] if several is None else _prompted.texts(table.columns[several][row], at, several)
    text = _templates.render(options.prompt, values)
    identity = _rows.identity(table, row, names_id if names_id in table.columns else None)
    meta = {"row": values, "target": right}
    return Example(text, id=identity, at=at, answer=tuple(references) or (right,), meta=meta)


def asked(table: Table, given: Mapping[str, str]) -> list[Example]:
    """Rows as they are; the prompt is made of them when they are encoded. Targets are not needed."""
    return _prompted.rows_of(table, given)


def prepared(problem: Problem, tokenizer: Any) -> Problem:
    """The problem with the tokenizer's chat template in its options, where it is asked for and not yet there."""
    options: Options = problem.options
    if not options.chat or options.chat_template is not None:
        return problem
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str):
        raise UserError(
            "task.chat = true, but the tokenizer has no chat template; task.chat_template gives one, or task.prompt "
            "says the turns in words"
        )
    return replace(problem, options=options.model_copy(update={"chat_template": found}))


def outputs(problem: Problem) -> int:
    """None of its own: the model's LM head gives them."""
    return 0


def encode(examples: Sequence[Example], reading: Reading, problem: Problem) -> Encoded:
    """A prompt a row, with its target's ids as `answer` where it has one.

    A target of more than `max_new_tokens` is an error where `reading` is strict, else nothing is learned from it.
    """
    options: Options = problem.options
    room = reading.length if reading.apart else reading.length - options.max_new_tokens
    if reading.apart and options.max_new_tokens > reading.length:
        raise UserError(
            f"task.max_new_tokens = {options.max_new_tokens} is more than the {reading.length} tokens that a target "
            "may have; fewer would work"
        )
    if room < FEWEST:
        raise UserError(
            f"task.max_new_tokens = {options.max_new_tokens} leaves {max(0, room)} of {reading.length} tokens for a "
            "prompt; fewer would work"
        )
    turn = _prompted.chat(reading.tokenizer, options.chat_template, options.system) if options.chat else str

    def rendered(values: Mapping[str, str]) -> str:
        return turn(_templates.render(options.prompt, values))

    values = [_prompted.values_of(example, options.prompt) for example in examples]
    where = "" if reading.fill is not None else " at their longest field"
    if reading.fill is not None:
        filled, cut = reading.fill(values, room)
        found = [row.ids for row in filled]
    else:
        found, cut = _prompted.prompts(values, rendered, reading, room, options.chat)
    learned = [place for place, example in enumerate(examples) if "target" in example.meta]
    answers = _prompted.targets([examples[place].meta["target"] for place in learned], reading)
    right: dict[int, list[int]] = {}
    long: list[int] = []
    for place, ids in zip(learned, answers, strict=True):
        if len(ids) <= options.max_new_tokens:
            right[place] = ids
            continue
        if reading.strict:
            raise UserError(
                f"{examples[place].at}: the target has {len(ids)} tokens, and task.max_new_tokens = "
                f"{options.max_new_tokens}; a larger one would hold it, and --skip-bad leaves such rows out"
            )
        long.append(place)
    rows = [Features(ids, None, answer=right.get(place)) for place, ids in enumerate(found)]
    notes = [f"{cut} prompts are longer than {room} tokens and were cut{where}"] if cut else []
    if long:
        wrong = "" if reading.learned else ": they have no loss, and no answer can be as long"
        notes.append(f"{len(long)} targets have more than task.max_new_tokens = {options.max_new_tokens} tokens{wrong}")
    return Encoded(examples, rows, range(len(rows)), notes=tuple(notes))


def goals(encoded: Encoded) -> Tensor:
    """The targets' ids (rows w), −100 behind their ends."""
    bare = next((example for example in encoded.examples if "target" not in example.meta), None)
    if bare is not None:
        raise UserError(f"an example without a target: {bare.text[:60]!r}")
    return goals_of([torch.tensor(row.answer or [], dtype=torch.long) for row in encoded.rows])


def decode(written: Written, encoded: Encoded, problem: Problem) -> list[dict[str, Any]]:
    """The text of each example; of several the likeliest, and all of them with their scores."""
    if problem.options.best == 1:
        return [{"text": texts[0]} for texts in written.texts]
    return [
        {
            "text": texts[0],
            "best": [{"text": text, "score": value} for text, value in zip(texts, values, strict=True)],
        }
        for texts, values in zip(written.texts, written.scores, strict=True)
    ]


def right(example: Example, labels: Sequence[str]) -> tuple[str, ...]:
    """The texts that the example takes, each of them right."""
    return example.answer


def measures(problem: Problem) -> tuple[str, ...]:
    """The names of the metrics, the one that a run is known by first."""
    return (*dict.fromkeys(problem.options.metrics), "loss")


def metrics(written: Written, encoded: Encoded, problem: Problem) -> dict[str, float]:
    """The metrics that were asked for, of each example's first text; nothing where no texts were written."""
    if not written.texts:
        return {}
    options: Options = problem.options
    texts, references = [own[0] for own in written.texts], [example.answer for example in encoded.examples]
    return score(tuple(dict.fromkeys(options.metrics)), texts, references, options.bleu_tokenizer)


def details(written: Written, encoded: Encoded, problem: Problem) -> Details:
    """Nothing: a text has no classes."""
    return Details()


def tuned(written: Written, encoded: Encoded, problem: Problem) -> Problem:
    """Nothing is tuned here."""
    return problem
