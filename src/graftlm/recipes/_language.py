"""Rows of prompts and answers through a model with its LM head: the logits of the answers, and texts of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.core.reporter import Progress, Reporter, Silent
from graftlm.recipes._writing import Draws, asked_by, seeds_of
from graftlm.sites import Attached
from graftlm.tasks import Features, Guessed, LanguageHead, Problem, Written, collate, read_places
from graftlm.training import sorted_batches

Rows = Sequence[tuple[Features, list[int]]]
"""Features, and the virtual tokens' ids in front of each."""


@dataclass(frozen=True)
class Speaker:
    """A base with runs that writes by its LM head."""

    base: Base
    attached: Attached
    head: LanguageHead

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        found = self.base.tokenizer.eos_token_id
        if found is None:
            found = self.attached.sites.config.eos_token_id
        if isinstance(found, list | tuple):
            found = found[0]
        if found is None:
            raise UserError(f'neither the tokenizer nor the config of "{self.base.source.name}" names an end of text')
        return int(found)

    @property
    def ends(self) -> list[int]:
        """All tokens that an answer stops at: `end`, and those of the model's generation config."""
        base: Any = self.attached.base
        found = base.generation_config.eos_token_id
        found = found if isinstance(found, list | tuple) else [] if found is None else [found]
        return list(dict.fromkeys([self.end, *map(int, found)]))

    def logits(self, rows: Rows) -> Tensor:
        """The logits (b w v) that foresee each token of each row's answer; a route must be in force."""
        batch, places = self._taught(rows)
        with self.head.reading(places):
            return self.attached(**batch, use_cache=False).logits

    def batch_losses(self, rows: Rows, goals: Tensor) -> Tensor:
        """The loss (b) of each row's answer, goals (b w); a route must be in force."""
        batch, places = self._taught(rows)
        return self.head.losses(places, goals, lambda: self.attached(**batch, use_cache=False).logits)

    def _taught(self, rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
        """The batch with the answers behind the prompts, or before the decoder, and where they are foreseen (b w)."""
        device, pad = self.attached.device, self.base.pad_id
        answers = [row.answer or [] for row, _ in rows]
        if self.attached.sites.encoder_decoder:
            start: int = self.attached.sites.config.decoder_start_token_id
            batch = collate(rows, pad, device)
            own = collate([(Features([start, *answer[:-1]], None), []) for answer in answers], pad, device)
            batch |= {f"decoder_{name}": value for name, value in own.items()}
            before = [0] * len(rows)
        else:
            full = [
                (Features([*row.ids, *answer[:-1]], None), virtual)
                for (row, virtual), answer in zip(rows, answers, strict=True)
            ]
            batch = collate(full, pad, device)
            before = [len(virtual) + len(row.ids) - 1 for row, virtual in rows]
        spans = [torch.arange(len(answer)) + first for answer, first in zip(answers, before, strict=True)]
        places = torch.nn.utils.rnn.pad_sequence(spans, batch_first=True, padding_value=-1)
        return batch, places.to(device)

    def losses(self, rows: Rows, size: int, reporter: Reporter | None = None, title: str = "") -> Tensor:
        """The loss of each row's answer (rows), on the CPU; not a number where there is none."""
        found = torch.full((len(rows),), torch.nan)
        known = [place for place, (row, _) in enumerate(rows) if row.answer]
        with (reporter or Silent()).progress(title, len(known), unit="examples") as progress:
            for part in sorted_batches([rows[place][0].length for place in known], size):
                batch = [known[place] for place in part]
                own = [rows[place] for place in batch]
                goals = [torch.tensor(row.answer) for row, _ in own]
                wanted = torch.nn.utils.rnn.pad_sequence(goals, batch_first=True, padding_value=-100)
                found[batch] = self.batch_losses(own, wanted.to(self.attached.device)).float().cpu()
                progress.advance(len(batch))
        return found

    def write(self, rows: Rows, run: str, size: int, problem: Problem, reporter: Reporter, title: str) -> Written:
        """The texts that one run writes behind each row, and the losses of the rows' own answers."""
        losses = self.losses(rows, size, reporter, title)
        best, beams, sample = problem.options.best, problem.options.beams, problem.options.sample
        texts: list[list[str]] = [[] for _ in rows]
        scores: list[list[float]] = [[] for _ in rows]
        batches = sorted_batches([len(row.ids) for row, _ in rows], max(1, size // beams))
        seeds = seeds_of([row.ids for row, _ in rows], self.attached.seeds[run], best) if sample else [[]] * len(rows)
        with reporter.progress(title, len(rows), unit="examples") as progress:
            for batch in batches:
                own = [rows[place] for place in batch]
                found = self._generated(own, problem, [seed for place in batch for seed in seeds[place]])
                values = self._scored(own, found, size, best) if best > 1 else [0.0] * len(own)
                for index, place in enumerate(batch):
                    part = range(index * best, (index + 1) * best)
                    order = sorted(part, key=lambda at, values=values: -values[at])
                    texts[place] = [self._text(found[at]) for at in order]
                    scores[place] = [values[at] for at in order]
                progress.advance(len(batch))
        return Written(losses, texts, scores if best > 1 else ())

    def _scored(self, rows: Rows, found: Sequence[list[int]], size: int, best: int) -> list[float]:
        """The mean log-probability of a token of each of the answers, `best` for each row."""
        many = [row for row in rows for _ in range(best)]
        again = [
            (Features(row.ids, None, answer=ids), virtual) for (row, virtual), ids in zip(many, found, strict=True)
        ]
        return (-self.losses(again, size)).tolist()

    def _text(self, ids: list[int]) -> str:
        ids = ids[:-1] if ids and ids[-1] in self.ends else ids
        return self.base.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _generated(self, rows: Rows, problem: Problem, seeds: Sequence[int]) -> list[list[int]]:
        """`best` answers for each row, one row's after another's: ids up to the end, which is the last of them.

        `seeds`: those of the answers that are drawn.
        """
        from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        options, device = problem.options, self.attached.device
        both = self.attached.sites.encoder_decoder
        many = [row for row in rows for _ in range(options.best)] if options.sample else rows
        batch = collate(many, self.base.pad_id, device, left=not both)
        base: Any = self.attached.base
        settings = GenerationConfig(
            **asked_by(base),
            max_new_tokens=options.max_new_tokens,
            num_beams=options.beams,
            do_sample=False,
            num_return_sequences=1 if options.sample else options.best,
            use_cache=options.cache,
            eos_token_id=self.ends,
            pad_token_id=self.base.pad_id,
            **({"decoder_start_token_id": self.attached.sites.config.decoder_start_token_id} if both else {}),
        )
        drawn: list[Any] = [TopPLogitsWarper(options.top_p)] if options.top_p < 1 else []
        drawn = [TemperatureLogitsWarper(options.temperature), *drawn, Draws(seeds, device)] if options.sample else []
        own, base.generation_config = base.generation_config, settings  # generate fills up from the base's own
        try:
            found = base.generate(**batch, logits_processor=LogitsProcessorList(drawn))
        finally:
            base.generation_config = own
        found = found[:, 1 if both else batch["input_ids"].shape[1] :].tolist()
        ends = set(self.ends)
        stops = [next((place for place, token in enumerate(ids) if token in ends), len(ids)) for ids in found]
        return [ids[: stop + 1] for ids, stop in zip(found, stops, strict=True)]


@dataclass(frozen=True)
class Guesser:
    """A base with runs that guesses words by its LM head, at the places that each row is read at."""

    attached: Attached
    head: LanguageHead
    pad: int

    def logits(self, rows: Rows) -> Tensor:
        """The logits (b w v); a route must be in force."""
        batch, places = self._read(rows)
        with self.head.reading(places):
            return self.attached(**batch).logits

    def batch_losses(self, rows: Rows, goals: Tensor) -> Tensor:
        """The loss (b) of each row's words, goals (b w); a route must be in force."""
        batch, places = self._read(rows)
        return self.head.losses(places, goals, lambda: self.attached(**batch).logits)

    def _read(self, rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
        places = read_places([(row, len(virtual)) for row, virtual in rows], self.attached.device)
        return collate(rows, self.pad, self.attached.device), places


def guess(
    logits_of: Callable[[Sequence[Features]], Tensor],
    rows: Sequence[Features],
    size: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[list[int]], str],
    best: int,
    progress: Progress,
) -> Guessed:
    """The `best` words for each place of each row, and the ranks and losses of those in `answer`."""
    losses = torch.full((len(rows),), torch.nan)
    words: list[list[list[tuple[str, float]]]] = [[] for _ in rows]
    ranks: list[list[int]] = [[] for _ in rows]
    for batch in sorted_batches([len(row.ids) for row in rows], size):
        logits = logits_of([rows[place] for place in batch]).float()
        top = logits.softmax(-1).topk(min(best, logits.shape[-1]))
        goals = [torch.tensor(rows[place].answer or [], dtype=torch.long) for place in batch]
        right = torch.nn.utils.rnn.pad_sequence(goals, batch_first=True, padding_value=-100).to(logits.device)
        each = loss(logits, right).cpu()
        for index, place in enumerate(batch):
            row = rows[place]
            for spot, _ in enumerate(row.places or ()):
                shares, ids = top.values[index, spot].tolist(), top.indices[index, spot].tolist()
                words[place].append([(decode([one]).strip(), share) for one, share in zip(ids, shares, strict=True)])
                goal = row.answer[spot] if row.answer else -1
                known = goal >= 0
                ranks[place].append(int((logits[index, spot] >= logits[index, spot, goal]).sum()) if known else 0)
            if any(goal >= 0 for goal in row.answer or ()):
                losses[place] = each[index]
        progress.advance(len(batch))
    return Guessed(losses, words, ranks)
