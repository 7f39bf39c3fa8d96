"""What the base foresees at training examples' masks before it is trained, which some verbalizers are found by."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.prompts import Seen, Verbalizer
from graftlm.tasks import Features
from graftlm.training import sorted_batches

MOST = 512  # examples: what they foresee of a vocabulary of 50,000 words is 100 MB
LOOKING = "looking"


def looking(width: int, words: int) -> Verbalizer:
    """A verbalizer that gives all that there is to see: states (b d) and logits (b v), side by side."""

    def scores(states: Tensor, logits: Tensor, own: object) -> Tensor:
        return torch.cat([states[:, 0], logits[:, 0].to(states.dtype)], -1)

    return Verbalizer(torch.arange(words), scores, {"name": LOOKING})


def drawn(examples: Sequence[Example], seed: int, most: int = MOST) -> list[Example]:
    """At most so many examples, of which each label has as many as it can."""
    if any(example.label is None for example in examples):
        raise UserError("a verbalizer that is found in training examples needs their labels")
    by_label: dict[int, list[int]] = {}
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randperm(len(examples), generator=generator).tolist():
        by_label.setdefault(examples[place].label or 0, []).append(place)
    found: list[int] = []
    for turn in range(max(map(len, by_label.values()), default=0)):
        found += [own[turn] for own in by_label.values() if turn < len(own)]
    return [examples[place] for place in sorted(found[:most])]


def gathered(
    outputs_of: Callable[[Sequence[Features]], Tensor], rows: Sequence[Features], goals: Tensor, width: int, size: int
) -> Seen:
    """What `looking` gives for rows, batched by length."""
    found: list[Tensor] = [torch.zeros(0)] * len(rows)
    with torch.inference_mode():
        for batch in sorted_batches([row.length for row in rows], size):
            outputs = outputs_of([rows[place] for place in batch]).float().cpu()
            for place, own in zip(batch, outputs, strict=True):
                found[place] = own
    whole = torch.stack(found).clone()
    return Seen(whole[:, :width], whole[:, width:], goals)
