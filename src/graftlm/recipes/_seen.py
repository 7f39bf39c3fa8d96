"""What the base foresees at training examples' masks before it is trained, which some verbalizers are found by."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import PromptConfig
from graftlm.methods import MethodConfig, acts, attach
from graftlm.prompts import Lexicon, Seen, Verbalizer, bound, find
from graftlm.recipes._prompt_head import PromptHead
from graftlm.recipes._room import in_front, room_for, row_room, virtual_of
from graftlm.tasks import Features, Problem
from graftlm.training import sorted_batches

MOST = 512  # examples: what they foresee of a vocabulary of 50,000 words is 100 MB
LOOKING = "looking"
SAID = 10  # words of a label that a user is told


def looking(words: int) -> Verbalizer:
    """A verbalizer that gives all that there is to see: states (b d) and logits (b v), side by side."""

    def scores(states: Tensor, logits: Tensor, own: object) -> Tensor:
        return torch.cat([states[:, 0], logits[:, 0].to(states.dtype)], -1)

    return Verbalizer(torch.arange(words), scores, {"name": LOOKING})


def drawn(examples: Sequence[Example], seed: int, *, labelled: bool, most: int = MOST) -> list[Example]:
    """At most so many examples; where they have labels, of each as many as there are."""
    if labelled and any(example.label is None for example in examples):
        raise UserError("this verbalizer is found in training examples with their labels, and there are none")
    by_label: dict[int | None, list[int]] = {}
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randperm(len(examples), generator=generator).tolist():
        by_label.setdefault(examples[place].label if labelled else None, []).append(place)
    found: list[int] = []
    for turn in range(max(map(len, by_label.values()), default=0)):
        found += [own[turn] for own in by_label.values() if turn < len(own)]
    return [examples[place] for place in sorted(found[:most])]


def look(
    base: Base,
    method: Mapping[str, MethodConfig],
    prompt: PromptConfig,
    problem: Problem,
    examples: Sequence[Example],
    seed: int,
    max_length: int | None,
    size: int,
) -> tuple[PromptConfig, Seen]:
    """A run's prompt with the verbalizer that is found for it, and what it was found by; the base is left as it was.

    `method` is the run's, by its name.
    """
    (run, own_method), sites = next(iter(method.items())), base.sites()
    if problem.module.READS != "class":
        raise UserError(f"this verbalizer is found by labels, which {problem.task} has none of; manual has words")
    own = bound(prompt, (), base.tokenizer, sites, in_front(acts(own_method, sites)), reads=looking(sites.words))
    beside = {run: [own.act]} if own.act is not None else {}
    seeds, missing = {run: seed}, base.missing
    attached = attach(base.model, method, seeds=seeds, tokenizer=base.tokenizer, missing=missing, beside=beside)
    attached.eval()
    head, virtual = PromptHead(attached, {run: own}, 0), virtual_of(attached, run)
    limit = room_for(base, attached.sites, attached.acts[run], run)
    rows = head.encode(examples, run, row_room(max_length, limit, own.filler.virtual)).rows
    found = _gathered(head, run, rows, virtual, base.pad_id, size)
    attached.detach()
    width = found.shape[1] - sites.words
    goals = torch.tensor([-1 if example.label is None else example.label for example in examples])
    seen = Seen(found[:, :width], found[:, width:], goals)
    lexicon = Lexicon(own.template, own.frame, base.sites())
    return prompt.model_copy(update={"verbalizer": find(prompt.verbalizer, problem.labels, lexicon, seen)}), seen


def words_said(prompt: PromptConfig) -> str:
    """The words that were found for each label, as a line; nothing where a verbalizer has none."""
    words = prompt.verbalizer.get("words") or {}
    each = [f"{label}: {', '.join(own[:SAID])}{', …' if len(own) > SAID else ''}" for label, own in words.items()]
    return "; ".join(each)


@torch.no_grad()
def _gathered(
    head: PromptHead, run: str, rows: Sequence[Features], virtual: Sequence[int], pad: int, size: int
) -> Tensor:
    """What `looking` gives for rows, batched by length."""
    found: list[Tensor] = [torch.zeros(0)] * len(rows)
    for batch in sorted_batches([row.length for row in rows], size):
        head.attached.route(run)
        outputs = head([(run, rows[place], virtual) for place in batch], pad).float().cpu()
        for place, own in zip(batch, outputs, strict=True):
            found[place] = own
    return torch.stack(found)
