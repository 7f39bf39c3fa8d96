"""Texts to token ids, and ids to padded batches with each run's virtual tokens in front."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.kernels.cross_entropy import UNREAD


@dataclass(frozen=True, slots=True)
class Features:
    """One row's token ids, where the model has them segment ids, and the tokens that a head reads one by one.

    `answer` are the ids that the model should write after the row, its end included. `others` are texts that belong
    to this one, and are learned from with it.
    """

    ids: list[int]
    types: list[int] | None
    places: list[int] | None = None
    answer: list[int] | None = None
    others: tuple["Features", ...] = ()

    @property
    def length(self) -> int:
        """The tokens that a model is given in one row, without virtual ones."""
        return max(len(self.ids) + len(self.answer or ()), *(other.length for other in self.others), 0)

    @property
    def parts(self) -> tuple["Features", ...]:
        """The row and its others."""
        return (self, *self.others)


@dataclass(frozen=True)
class Reading:
    """How a model takes text: its tokenizer and the most tokens of a row, special ones included.

    `causal`: its last token has seen the whole row, its first one nothing. `strict`: an example that cannot be learned
    from is an error, and not only counted. `end` is the token that ends what the model writes, `apart` whether it
    reads a prompt by an encoder, and so has as many tokens again for what it writes. `learned`: the examples are for
    training, which leaves out what it cannot learn from, where elsewhere that counts as wrong. `fill`, where there is
    one, makes prompts of fields in place of the task's own template: their rows within so much room, and how many were
    cut; and `word` gives a word's tokens in the place that such a row asks for it at.
    """

    tokenizer: Any
    length: int
    causal: bool = False
    strict: bool = False
    learned: bool = False
    end: int = 0
    apart: bool = False
    fill: Callable[[Sequence[Mapping[str, str]], int], tuple[list[Features], int]] | None = None
    word: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Encoded:
    """Examples as rows for a model.

    `owners` says which example each row is, or is a window of; `meaning` what each place of each row stands for, in
    the task's own terms. `notes` are lines about what was cut or left out.
    """

    examples: Sequence[Example]
    rows: list[Features]
    owners: Sequence[int]
    meaning: Sequence[Sequence[Any]] = ()
    notes: tuple[str, ...] = ()
    windows: dict[int, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        windows: dict[int, list[int]] = {}
        for row, owner in enumerate(self.owners):
            windows.setdefault(owner, []).append(row)
        object.__setattr__(self, "windows", windows)

    def learnable(self, goals: Tensor, *, strict: bool) -> "Encoded":
        """The rows with a token to learn in their `goals` (rows w).

        An example that has none is an error with its line if `strict`, else counted in a note.
        """
        kept = (goals != UNREAD).any(1).nonzero().flatten().tolist()
        if len(kept) == len(self.rows):
            return self
        rows, owners = [self.rows[place] for place in kept], [self.owners[place] for place in kept]
        lost = sorted({*self.windows} - {*owners})
        if lost and strict:
            raise UserError(
                f"{self.examples[lost[0]].at}: there is no token to learn; --skip-bad leaves such examples out"
            )
        if not rows:
            said = "; ".join(self.notes)
            raise UserError(f"none of the {len(lost)} training examples has a token to learn: {said}")
        notes = [f"{len(lost)} of {len(self.windows)} examples have no token to learn and are left out"] if lost else []
        meaning = [self.meaning[place] for place in kept] if self.meaning else ()
        return replace(self, rows=rows, owners=owners, meaning=meaning, notes=(*self.notes, *notes))


def check_length(max_length: int, added: int) -> None:
    """Refuses rows that hold nothing but what is added to a text."""
    if max_length <= added:
        raise UserError(f"max_length = {max_length} leaves no token for a text beside the {added} that frame it")


def encode(examples: Sequence[Example], tokenizer: Any, max_length: int) -> tuple[list[Features], int]:
    """The features of texts or pairs, cut to `max_length` tokens; and how many were cut.

    A pair is cut at its longer side first.
    """
    if not examples:
        return [], 0
    pairs = [example.text_pair or "" for example in examples] if examples[0].text_pair is not None else None
    added = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    check_length(max_length, added)
    with_types = "token_type_ids" in tokenizer.model_input_names
    full = tokenizer([example.text for example in examples], pairs, return_token_type_ids=with_types, verbose=False)
    long = [row for row, ids in enumerate(full["input_ids"]) if len(ids) > max_length]
    if long:
        cut = tokenizer(
            [examples[row].text for row in long],
            [pairs[row] for row in long] if pairs else None,
            truncation=True,
            max_length=max_length,
            return_token_type_ids=with_types,
        )
        for place, row in enumerate(long):
            for key in ("input_ids", *(["token_type_ids"] if with_types else [])):
                full[key][row] = cut[key][place]
    types = full["token_type_ids"] if with_types else [None] * len(examples)
    empty = [tokenizer.eos_token_id or 0]
    rows = zip(full["input_ids"], types, strict=True)
    return [Features(ids or empty, kinds if ids or kinds is None else [0]) for ids, kinds in rows], len(long)


def collate(
    rows: Sequence[tuple[Features, Sequence[int]]], pad_id: int, device: torch.device, *, left: bool = False
) -> dict[str, Tensor]:
    """A batch (b t) of features, each behind its virtual tokens' ids, padded at the right or at the left."""
    longest = max(len(features.ids) + len(virtual) for features, virtual in rows)
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    types = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (features, virtual) in enumerate(rows):
        before = longest - len(virtual) - len(features.ids) if left else 0
        start, stop = before + len(virtual), before + len(virtual) + len(features.ids)
        ids[row, before:stop] = torch.tensor([*virtual, *features.ids])
        mask[row, before:stop] = 1
        if features.types is not None:
            types[row, start:stop] = torch.tensor(features.types)
    batch = {"input_ids": ids, "attention_mask": mask}
    if rows[0][0].types is not None:
        batch["token_type_ids"] = types
    return {name: tensor.to(device) for name, tensor in batch.items()}


def read_places(rows: Sequence[tuple[Features, int]], device: torch.device) -> Tensor:
    """The places (b w) that a head reads of features that so many virtual tokens stand before; −1 pads."""
    moved = [torch.tensor([place + before for place in features.places or ()]) for features, before in rows]
    padded = torch.nn.utils.rnn.pad_sequence(moved, batch_first=True, padding_value=-1)
    return padded.to(device=device, dtype=torch.long)
