"""The prompt formulation: examples in a template, and labels read off the words that the model's own LM head says."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import HeadConfig, PromptConfig
from graftlm.prompts import (
    TARGET,
    Filled,
    Prompt,
    Seen,
    all_rows,
    empty_texts,
    interpolated,
    mixture_loss,
    parse,
    read,
    start,
)
from graftlm.sites import Attached, Bank
from graftlm.tasks import Encoded, Features, Problem, collate, read_places

PLACE = "head"
Loss = Callable[[Tensor, Tensor], Tensor]
Rows = Sequence[tuple[str, Features, Sequence[int]]]
"""Each row's run, its features, and the virtual tokens' ids in front of it."""


class PromptHead:
    """The verbalizers of all runs over the base's own LM head, which runs at the masks and over their words alone.

    A verbalizer's own tensors are trained and stored with its run, as a head's are.
    """

    def __init__(self, attached: Attached, prompts: Mapping[str, Prompt], outputs: int):
        self.attached, self.prompts = attached, dict(prompts)
        self.outputs = outputs + max(len(prompt.ends) for prompt in prompts.values())
        self._banks: dict[str, Bank] = {
            run: attached.add_bank(PLACE, {run: prompt.verbalizer.params})
            for run, prompt in prompts.items()
            if prompt.verbalizer.params
        }
        self._wanted: dict[tuple[str, ...], tuple[Tensor | None, list[Tensor]]] = {}

    def encode(self, examples: Sequence[Example], run: str, room: int) -> Encoded:
        """The examples in the run's template, as rows of at most `room` tokens whose places are the masks."""
        room = self._room(run, room)
        rows, cut = as_rows(self.prompts[run].fill(examples, room))
        notes = (f"{cut} examples are longer than {room} tokens in their template and were cut",) if cut else ()
        return Encoded(examples, rows, range(len(rows)), notes=notes)

    def _room(self, run: str, room: int) -> int:
        """The room of a template that a model with a decoder of texts is given the words of several tokens behind."""
        prompt = self.prompts[run]
        behind = prompt.verbalizer.rule is not None and prompt.frame.kind in ("causal", "denoising")
        return room - (max(map(len, prompt.verbalizer.words)) - 1 if behind else 0)

    def __call__(self, rows: Rows, pad: int, *, learning: bool = False) -> Tensor:
        """Rows that are for each run together -> logits (b outputs), or while `learning` what `loss` takes, as wide as
        the widest; a route must be in force.
        """
        runs = tuple(run for run, _ in groupby(run for run, _, _ in rows))
        if runs not in self._wanted:
            wanted = [self.prompts[run].verbalizer.rows for run in runs]
            with torch.inference_mode(False):  # an evaluation may be the first to ask, and training asks again
                self._wanted[runs] = all_rows(wanted, self.attached.sites.words, self.attached.device)
        words, columns = self._wanted[runs]
        states, logits = self._read(rows, pad, words)
        sizes = [sum(1 for _ in own) for _, own in groupby(run for run, _, _ in rows)]
        parts = zip(runs, columns, states.split(sizes), logits.split(sizes), strict=True)
        found = [self._scores(run, h, own[..., column], learning) for run, column, h, own in parts]
        widest = max(own.shape[1] for own in found)
        return torch.cat([functional.pad(own, (0, widest - own.shape[1])) for own in found])

    def vocabulary(self, rows: Rows, pad: int) -> Tensor:
        """Rows that are for each run together -> the whole vocabulary's logits (b m v) at their places."""
        return _wide(self._read(rows, pad, None)[1])

    def _read(self, rows: Rows, pad: int, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the last layer reads (b m d), and the logits (b m r) of `words`, or of all."""
        device = self.attached.device
        batch = collate([(features, virtual) for _, features, virtual in rows], pad, device)
        kind = self.prompts[rows[0][0]].frame.kind
        if kind in ("masked", "causal"):
            places = read_places([(features, len(virtual)) for _, features, virtual in rows], device)
        else:
            decoded, spots = self._decoder_rows(rows)
            own = collate([(features, ()) for features in decoded], pad, device)
            batch |= {f"decoder_{name}": value for name, value in own.items()}
            places = torch.nn.utils.rnn.pad_sequence(spots, True, -1).to(device)
        return read(self.attached, batch, places.clamp(min=0), words)

    def _decoder_rows(self, rows: Rows) -> tuple[list[Features], list[Tensor]]:
        """What the decoder of each row is given, and where it foresees the mask, or the tokens of `answer`."""
        start: int = self.attached.sites.config.decoder_start_token_id
        found: list[Features] = []
        spots: list[Tensor] = []
        for run, features, _ in rows:
            frame, answer = self.prompts[run].frame, features.answer or [0]
            assert frame.mask is not None
            assert features.places
            tuned = self.prompts[run].tuned
            said = [tuned.get(token, token) for token in features.ids[: features.places[0]]]
            real = [token for token in said if token < self.attached.sites.vocabulary]
            before = [frame.mask[1]] if frame.kind == "sentinel" else real
            found.append(Features([start, *before, *answer[:-1]], None))
            spots.append(torch.arange(len(answer)) + len(before))
        return found, spots

    def _scores(self, run: str, states: Tensor, logits: Tensor, learning: bool) -> Tensor:
        prompt = self.prompts[run]
        bank = self._banks.get(run)
        own = {} if bank is None else {name: tensor[0] for name, tensor in bank.tensors().items()}
        masks, learns = prompt.verbalizer.masks, prompt.verbalizer.learns if learning else None
        found = (learns or prompt.verbalizer.scores)(_wide(states[:, :masks]), _wide(logits[:, :masks]), own)
        return self.scored(run, found)

    def scored(self, run: str, found: Tensor) -> Tensor:
        """What the words come to (b c): the labels' logits as they are, or the score between the words, then theirs."""
        prompt = self.prompts[run]
        if not prompt.ends:
            return found
        score = interpolated(found, torch.tensor(prompt.ends, device=found.device))
        return functional.pad(torch.cat([score[:, None], found], 1), (0, self.outputs - 1 - found.shape[1]))

    def loss(self, run: str, logits: Tensor, goals: Tensor, usual: Loss) -> Tensor:
        """What was given while learning (b k), goals (b) -> (b): the verbalizer's own loss, or the usual."""
        prompt = self.prompts[run]
        if prompt.ends:
            return mixture_loss(logits[:, 1 : 1 + len(prompt.ends)], goals, torch.tensor(prompt.ends))
        if prompt.verbalizer.loss is not None:
            return prompt.verbalizer.loss(logits, goals)
        return usual(logits[:, : self.outputs], goals)

    def blank(self, run: str, room: int) -> list[Features]:
        """The prompts without content that a run's answers are calibrated by; none where they are not."""
        prompt = self.prompts[run]
        if prompt.config.calibration is None:
            return []
        mask = prompt.frame.mask[0] if prompt.frame.mask is not None else None
        return as_rows(
            [prompt.blank(text, self._room(run, room)) for text in empty_texts(prompt.config.calibration, mask)]
        )[0]

    @torch.no_grad()
    def start(self, run: str, seen: Seen) -> None:
        """Puts the tensors of a run's verbalizer where what was seen says that they start."""
        views = self._banks[run].views[run] if run in self._banks else {}
        for name, value in start(self.prompts[run].verbalizer.config, dict(views), seen).items():
            views[name].copy_(value)


def as_rows(filled: Sequence[Filled]) -> tuple[list[Features], int]:
    """Filled templates as rows whose places are the masks, and how many were cut."""
    return [Features(row.ids, row.types, row.places) for row in filled], sum(row.shortened for row in filled)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_formulation(problem: Problem, head: HeadConfig) -> None:
    """Refuses a task that has no prompt formulation, and options of a head that it has no use for."""
    if problem.module.READS not in ("class", "score") and problem.base_head is None:
        raise UserError(
            f'the task "{problem.task}" has no prompt formulation; classification, regression, cloze and generation '
            "have one"
        )
    if head != HeadConfig():
        name = "pooling" if head.pooling != "default" else "dropout"
        raise UserError(f"head.{name} = {getattr(head, name)}, but a prompt is read by the model's own LM head")


def asking_for(problem: Problem, config: PromptConfig) -> Problem:
    """A task that writes texts or words, with its rows read as a template has fields for."""
    if problem.base_head is None:
        return problem
    options = problem.options
    if options.prompt != type(options)().prompt or getattr(options, "chat", False):
        raise UserError("task.prompt and task.chat are the task's own, and prompt.template stands in their place")
    return reading(problem, parse(config.template).fields)


def reading(problem: Problem, fields: Collection[str]) -> Problem:
    """A task that writes texts or words, with its rows read as there are fields for."""
    if problem.base_head is None:
        return problem
    prompt = " ".join(f"{{{name}}}" for name in fields if name != TARGET)
    return replace(problem, options=problem.options.model_copy(update={"prompt": prompt}))


def must_train(attached: Attached, prompts: Mapping[str, Prompt]) -> None:
    """Refuses runs that would train nothing, or cannot be trained."""
    for run, prompt in prompts.items():
        if prompt.verbalizer.rule is not None and prompt.frame.kind != "masked":
            raise UserError(
                f'run "{run}" would be trained on words of several tokens at masks, and only a masked model has them; '
                "words of one token would work, and graftlm evaluate asks untrained models"
            )
    for run in attached.runs:
        if not attached.parameters_of(run):
            raise UserError(
                f'run "{run}" would train nothing: neither its method nor its template has parameters; lora, or '
                "virtual tokens in the template, as {soft:8}, would work, and graftlm evaluate asks untrained models"
            )
