"""A base, the runs on it and their heads, as one thing that turns examples into losses and logits."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.reporter import Reporter
from graftlm.kernels.cross_entropy import UNREAD
from graftlm.prompts import Gap, Opening, Prompt
from graftlm.recipes._asking import asked, without_prompt
from graftlm.recipes._auxiliary import beside
from graftlm.recipes._bottom import Bottom
from graftlm.recipes._cached import encoded
from graftlm.recipes._language import Guesser, Speaker, guess
from graftlm.recipes._prompt_head import PromptHead, as_rows
from graftlm.recipes._room import row_room
from graftlm.sites import Attached, row_keys
from graftlm.tasks import (
    NOWHERE,
    Encoded,
    Features,
    Guessed,
    LanguageHead,
    Problem,
    Reading,
    SequenceHead,
    TokenHead,
    VectorHead,
    Written,
    collate,
    guessed_head,
    mean_loss,
    read_places,
)
from graftlm.training import sorted_batches


@dataclass
class TaskModel:
    """Runs of one task on one base. `virtual` are each run's virtual tokens' ids.

    `cache`: a folder that keeps large data sets' token ids; None keeps none. `kernels`: what computes the
    base, as `_speed` has found it. `bottom`: what stands below all runs, computed before, where that is kept.
    """

    base: Base
    attached: Attached
    head: SequenceHead | TokenHead | LanguageHead | VectorHead | PromptHead
    problem: Problem
    virtual: Mapping[str, list[int]]
    limits: Mapping[str, int]
    base_parameters: int
    cache: Path | None = None
    kernels: Mapping[str, Any] = field(default_factory=dict)
    bottom: Bottom | None = None
    prompts: Mapping[str, Prompt | Opening] = field(default_factory=dict)

    @property
    def speaker(self) -> Speaker | None:
        """What writes by the base's LM head, where the task has it so."""
        if self.task.HEAD != "lm" or not isinstance(self.head, LanguageHead):
            return None
        return Speaker(self.base, self.attached, self.head)

    @property
    def _language(self) -> Speaker | Guesser:
        """What runs the model with its LM head."""
        assert isinstance(self.head, LanguageHead)
        return self.speaker or Guesser(self.attached, self.head, self.base.pad_id)

    @property
    def task(self) -> ModuleType:
        """Where the task's functions are."""
        return self.problem.module

    def encode(
        self,
        examples: Sequence[Example],
        run: str,
        max_length: int | None = None,
        *,
        learned: bool = False,
        strict: bool = False,
    ) -> Encoded:
        """The examples as rows of at most `max_length` tokens, virtual ones besides, and of what positions are left.

        `learned` and `strict` are those of `Reading`.
        """
        limit = self.limits[run]
        if max_length is not None and max_length > limit:
            raise UserError(f"max_length = {max_length}, but {self.base.source.name} leaves {limit} positions for text")
        length = row_room(max_length, limit, self.prompts[run].filler.virtual if run in self.prompts else 0)
        if isinstance(self.head, PromptHead):
            found = self.head.encode(examples, run, length)
            self._check_words(found.rows, run)
            return found
        if self.task.HEAD != "text":
            reading = Reading(self.base.tokenizer, length, _causal(self.attached), strict, learned)
            if self.speaker is not None:
                reading = replace(reading, end=self.speaker.end, apart=self.attached.sites.encoder_decoder)
            if isinstance(opening := self.prompts.get(run), Opening):
                filler, word = opening.filler, opening.word if isinstance(opening, Gap) else None
                reading = replace(reading, fill=lambda values, room: as_rows(filler.fill(values, room)), word=word)
            found = self.task.encode(examples, reading, self.problem)
        else:
            rows, cut = encoded(examples, self.base.tokenizer, length, self.cache)
            notes = (f"{cut} texts are longer than {length} tokens and were cut",) if cut else ()
            found = Encoded(examples, rows, range(len(rows)), notes=notes)
        self._check_words(found.rows, run)
        return found

    def _check_words(self, rows: Sequence[Features], run: str) -> None:
        """Refuses a tokenizer of another model: its ids would be taken for virtual tokens."""
        prompt = self.prompts.get(run)
        own = {slot for slots in prompt.filler.slots.values() for slot in slots} if prompt is not None else set()
        highest = max(
            (token for row in rows for token in (*row.ids, *(row.answer or ())) if token not in own), default=0
        )
        if highest >= self.attached.sites.vocabulary:
            word = self.base.tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f'the tokenizer of "{self.base.source.name}" gives token {highest} ("{word}"), but the model has '
                f"{self.attached.sites.vocabulary} words: they do not belong together"
            )

    def forward(self, rows: Mapping[str, Sequence[Features]], keys: Tensor | None = None) -> Tensor:
        """Each run's features, run after run -> logits (rows outputs), or (rows places outputs), in that order."""
        device = self.attached.device
        flat = self._routed(rows, keys)
        if isinstance(self.head, PromptHead):
            named = [run for run, own in rows.items() for features in own for _ in features.parts]
            own = [(run, part, virtual) for run, (part, virtual) in zip(named, flat, strict=True)]
            return self.head(own, self.base.pad_id, learning=keys is not None)
        if isinstance(self.head, LanguageHead):
            return self._language.logits(flat)
        batch = collate(flat, self.base.pad_id, device)
        if self.attached.sites.encoder_decoder:
            batch |= self._decoder_inputs([features for features, _ in flat], device)
        extra = {"use_cache": False} if hasattr(self.attached.base.config, "use_cache") else {}
        both = self.attached.sites.encoder_decoder
        real = batch["decoder_attention_mask" if both else "attention_mask"].bool()
        if not both and not (isinstance(self.head, SequenceHead) and self.head.counts_virtual):
            real &= batch["input_ids"] < self.attached.sites.vocabulary
        with self.head.reading(real) if isinstance(self.head, SequenceHead) else nullcontext():
            if self.bottom is not None:
                hidden = self.bottom([features for features, _ in flat], batch | extra)
            else:
                hidden = self.attached(**batch, **extra).last_hidden_state
        if isinstance(self.head, TokenHead):
            before = [0 if both else len(virtual) for _, virtual in flat]
            return self.head(
                hidden, read_places([(row, count) for (row, _), count in zip(flat, before, strict=True)], device)
            )
        if isinstance(self.head, SequenceHead):
            return self.head(hidden, real)
        assert isinstance(self.head, VectorHead)
        sizes = [len(features.parts) for own in rows.values() for features in own]
        return pad_sequence(list(self.head(hidden, real).split(sizes)), batch_first=True)

    def _routed(self, rows: Mapping[str, Sequence[Features]], keys: Tensor | None) -> list[tuple[Features, list[int]]]:
        """All that goes through the model, run after run, with its virtual tokens; puts its route in force."""
        named = [(run, part) for run, own in rows.items() for features in own for part in features.parts]
        if len(self.attached.runs) == 1:
            self.attached.route(self.attached.runs[0], keys)
        else:
            self.attached.route([run for run, _ in named], keys)
        return [(features, self.virtual[run]) for run, features in named]

    def _decoder_inputs(self, rows: Sequence[Features], device: torch.device) -> dict[str, Tensor]:
        """The same texts one place to the right, as the families' own classifiers give them to the decoder."""
        start: int = self.attached.sites.config.decoder_start_token_id
        moved = [(Features([start, *features.ids[:-1]], None), []) for features in rows]
        found = collate(moved, self.base.pad_id, device)
        return {f"decoder_{name}": value for name, value in found.items()}

    def losses(
        self,
        rows: Mapping[str, Sequence[int]],
        steps: Mapping[str, int],
        features: Mapping[str, Sequence[Features]],
        targets: Mapping[str, Tensor],
        problems: Mapping[str, Problem] | None = None,
    ) -> dict[str, Tensor]:
        """The loss of each example that a step takes of each run, by run, by its own of `problems` where it has one."""
        keys = [row_keys(self.attached.seeds[run], steps[run], _names(own, features[run])) for run, own in rows.items()]
        chosen = {run: [features[run][index] for index in own] for run, own in rows.items()}
        named, sizes = torch.cat(keys).to(self.attached.device), [len(own) for own in rows.values()]
        if isinstance(self.head, LanguageHead):
            goals = [goal for run, own in rows.items() for goal in targets[run][list(own)]]
            wanted = pad_sequence(goals, batch_first=True, padding_value=UNREAD).to(self.attached.device)
            each = self._language.batch_losses(self._routed(chosen, named), wanted)
            return dict(zip(rows, each.split(sizes), strict=True))
        parts = self.forward(chosen, named).split(sizes)
        found = {
            run: self._loss(part, targets[run][list(own)].to(part.device), (problems or {}).get(run, self.problem), run)
            for (run, own), part in zip(rows.items(), parts, strict=True)
        }
        if isinstance(self.head, PromptHead):
            found |= beside(self.head, self.base, found, chosen, dict(zip(rows, keys, strict=True)), self.virtual)
        return found

    def _loss(self, logits: Tensor, goals: Tensor, problem: Problem, run: str | None = None) -> Tensor:
        if isinstance(self.head, PromptHead) and run is not None:
            return self.head.loss(run, logits, goals, self.task.loss)
        if isinstance(self.head, VectorHead):
            return self.task.loss(logits, goals, problem.options)
        return self.task.loss(logits, goals)

    def logits(self, features: Sequence[Features], run: str, size: int, reporter: Reporter, title: str) -> Tensor:
        """Logits (rows outputs), or (rows places outputs), on the CPU in the rows' order, batched by length."""
        if isinstance(self.head, LanguageHead):
            raise UserError(f"a run of {self.problem.task} gives no logits of whole rows; predict says what it gives")
        wide = (max(len(row.parts) for row in features),) if isinstance(self.head, VectorHead) and features else ()
        spots = () if isinstance(self.head, PromptHead) else wide or _places(features)
        out = torch.full((len(features), *spots, self.head.outputs), 0.0 if wide else NOWHERE)
        self.attached.eval()
        batches = sorted_batches([row.length for row in features], size)
        with torch.inference_mode(), reporter.progress(title, len(features), unit="examples") as progress:
            for batch in batches:
                found = self._asked(run, [features[index] for index in batch], size)
                if found.ndim == 2:
                    out[batch] = found
                else:
                    out[batch, : found.shape[1]] = found
                progress.advance(len(batch))
            if isinstance(self.head, PromptHead):
                out = without_prompt(self.head, run, out, self.limits[run], self.virtual[run], self.base.pad_id, size)
        return out

    def _asked(self, run: str, rows: Sequence[Features], size: int) -> Tensor:
        """The logits of rows that nothing is learned from, on the CPU."""
        if isinstance(self.head, PromptHead):
            return asked(self.head, run, rows, self.virtual[run], self.base.pad_id, size)
        return self.forward({run: rows}).float().cpu()

    def answer(
        self, encoded: Encoded, run: str, size: int, reporter: Reporter, title: str, *, loss_alone: bool = False
    ) -> Tensor | Written | Guessed:
        """What the task's `decode` and `metrics` take: logits of all rows, or what the model has written or guessed.

        `loss_alone`: nothing is written where the model would, and only the losses are known.
        """
        if not isinstance(self.head, LanguageHead):
            return self.logits(encoded.rows, run, size, reporter, title)
        self.attached.eval()
        self.attached.route(run)
        if self.speaker is None:
            decode, best = self.base.tokenizer.decode, self.problem.options.best
            with torch.inference_mode(), reporter.progress(title, len(encoded.rows), unit="examples") as progress:

                def logits_of(rows: Sequence[Features]) -> Tensor:
                    return self.forward({run: rows})

                return guess(logits_of, encoded.rows, size, self.task.loss, decode, best, progress)
        rows = [(row, self.virtual[run]) for row in encoded.rows]
        with torch.inference_mode():
            if loss_alone:
                return Written(self.speaker.losses(rows, size, reporter, title))
            return self.speaker.write(rows, run, size, self.problem, reporter, title)

    def gates(self, features: Sequence[Features], run: str, size: int, reporter: Reporter) -> dict[str, Tensor]:
        """How far each gate opens for each example: `layer.role.part` -> (examples), in the examples' order."""
        self.attached.eval()
        batches = sorted_batches([row.length for row in features], size)
        steps = reporter.progress("gates", len(features), unit="examples")
        with self.attached.gates() as found, torch.inference_mode(), steps as progress:
            for batch in batches:
                self.forward({run: [features[index] for index in batch]})
                progress.advance(len(batch))
        places = torch.tensor([place for batch in batches for place in batch]).argsort()
        return {name: torch.cat(values)[places] for name, values in found.items()}

    def metrics(self, answer: Tensor | Written | Guessed, encoded: Encoded) -> dict[str, float]:
        """The mean loss, of rows of tokens that have a goal, and the task's metrics."""
        if isinstance(answer, Tensor):
            goals = self.task.goals(encoded)
            each = self._loss(answer, goals, self.problem)
            if self.task.HEAD == "tokens":
                each = each[(goals != UNREAD).any(1)]
            loss = float(each.mean()) if len(each) else 0.0
        else:
            loss = mean_loss(answer)
        return {"loss": loss, **self.task.metrics(answer, encoded, self.problem)}


def _places(rows: Sequence[Features]) -> tuple[int, ...]:
    """The most places of a row; nothing where a head reads whole rows."""
    counts = [len(row.places) for row in rows if row.places is not None]
    return (max(counts),) if counts else ()


def _names(rows: Sequence[int], features: Sequence[Features]) -> Tensor:
    """What each row that goes through the model is known by: its example's number, and its place in there."""
    return torch.tensor([row + (place << 40) for row in rows for place in range(len(features[row].parts))])


def _causal(attached: Attached) -> bool:
    return (attached.sites.head or guessed_head(attached)).pool == "last"
