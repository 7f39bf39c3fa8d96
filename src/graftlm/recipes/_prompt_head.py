"""The prompt formulation: examples in a template, and labels read off the words that the model's own LM head says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import HeadConfig, PromptConfig
from graftlm.prompts import TARGET, Prompt, all_rows, parse, read
from graftlm.sites import Attached, Bank
from graftlm.tasks import Encoded, Features, Problem, collate, read_places

PLACE = "head"
Rows = Sequence[tuple[str, Features, Sequence[int]]]
"""Each row's run, its features, and the virtual tokens' ids in front of it."""


class PromptHead:
    """The verbalizers of all runs over the base's own LM head, which runs at the masks and over their words alone.

    A verbalizer's own tensors are trained and stored with its run, as a head's are.
    """

    def __init__(self, attached: Attached, prompts: Mapping[str, Prompt], outputs: int):
        self.attached, self.prompts, self.outputs = attached, dict(prompts), outputs
        self._banks: dict[str, Bank] = {
            run: attached.add_bank(PLACE, {run: prompt.verbalizer.params})
            for run, prompt in prompts.items()
            if prompt.verbalizer.params
        }
        self._wanted: dict[tuple[str, ...], tuple[Tensor | None, list[Tensor]]] = {}

    def encode(self, examples: Sequence[Example], run: str, room: int) -> Encoded:
        """The examples in the run's template, as rows of at most `room` tokens whose places are the masks."""
        filled = self.prompts[run].fill(examples, room)
        rows = [Features(row.ids, row.types, row.places) for row in filled]
        cut = sum(row.shortened for row in filled)
        notes = (f"{cut} examples are longer than {room} tokens in their template and were cut",) if cut else ()
        return Encoded(examples, rows, range(len(rows)), notes=notes)

    def __call__(self, rows: Rows, pad: int) -> Tensor:
        """Rows that are for each run together -> logits (b outputs); a route must be in force."""
        device = self.attached.device
        runs = tuple(run for run, _ in groupby(run for run, _, _ in rows))
        batch = collate([(features, virtual) for _, features, virtual in rows], pad, device)
        kind = self.prompts[runs[0]].frame.kind
        if kind in ("masked", "causal"):
            places = read_places([(features, len(virtual)) for _, features, virtual in rows], device)
        else:
            decoded, spots = self._decoder_rows(rows)
            own = collate([(features, ()) for features in decoded], pad, device)
            batch |= {f"decoder_{name}": value for name, value in own.items()}
            places = torch.tensor(spots, device=device)[:, None]
        if runs not in self._wanted:
            wanted = [self.prompts[run].verbalizer.rows for run in runs]
            self._wanted[runs] = all_rows(wanted, self.attached.sites.words, device)
        words, columns = self._wanted[runs]
        states, logits = read(self.attached, batch, places.clamp(min=0), words)
        sizes = [sum(1 for _ in own) for _, own in groupby(run for run, _, _ in rows)]
        parts = zip(runs, columns, states.split(sizes), logits.split(sizes), strict=True)
        return torch.cat([self._scores(run, h, own[..., column]) for run, column, h, own in parts])

    def _decoder_rows(self, rows: Rows) -> tuple[list[Features], list[int]]:
        """What the decoder of each row is given, and where it foresees the mask."""
        start: int = self.attached.sites.config.decoder_start_token_id
        found: list[Features] = []
        for run, features, _ in rows:
            frame = self.prompts[run].frame
            assert frame.mask is not None
            assert features.places
            if frame.kind == "sentinel":
                found.append(Features([start, frame.mask[1]], None))
                continue
            before = features.ids[: features.places[0]]
            real = [token for token in before if token < self.attached.sites.vocabulary]
            found.append(Features([start, *real], None))
        return found, [len(row.ids) - 1 for row in found]

    def _scores(self, run: str, states: Tensor, logits: Tensor) -> Tensor:
        prompt = self.prompts[run]
        bank = self._banks.get(run)
        own = {} if bank is None else {name: tensor[0] for name, tensor in bank.tensors().items()}
        masks = prompt.verbalizer.masks
        found = prompt.verbalizer.scores(_wide(states[:, :masks]), _wide(logits[:, :masks]), own)
        if not prompt.ends:
            return found
        ends = torch.tensor(prompt.ends, device=found.device, dtype=found.dtype)
        return (found.softmax(-1) @ ends)[:, None]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_formulation(problem: Problem, head: HeadConfig) -> None:
    """Refuses a task that has no prompt formulation, and options of a head that it has no use for."""
    if problem.module.READS not in ("class", "score") and problem.base_head != "lm":
        raise UserError(
            f'the task "{problem.task}" has no prompt formulation; classification, regression and generation have one'
        )
    if head != HeadConfig():
        name = "pooling" if head.pooling != "default" else "dropout"
        raise UserError(f"head.{name} = {getattr(head, name)}, but a prompt is read by the model's own LM head")


def asking_for(problem: Problem, config: PromptConfig) -> Problem:
    """A task that writes texts, with its rows read as a template has fields for."""
    if problem.base_head != "lm":
        return problem
    options = problem.options
    if options.prompt != type(options)().prompt or options.chat:
        raise UserError("task.prompt and task.chat are the task's own, and prompt.template stands in their place")
    names = [name for name in parse(config.template).fields if name != TARGET]
    return replace(problem, options=options.model_copy(update={"prompt": " ".join(f"{{{name}}}" for name in names)}))


def must_train(attached: Attached) -> None:
    """Refuses runs that would train nothing."""
    for run in attached.runs:
        if not attached.parameters_of(run):
            raise UserError(
                f'run "{run}" would train nothing: neither its method nor its template has parameters; lora, or '
                "virtual tokens in the template, as {soft:8}, would work, and graftlm evaluate asks untrained models"
            )
