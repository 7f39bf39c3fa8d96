"""What the base foresees at training examples' masks before it is trained, which some verbalizers are found by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import FitConfig, PromptConfig
from graftlm.methods import MethodConfig, acts, attach
from graftlm.prompts import Lexicon, Seen, Verbalizer, bound, find
from graftlm.recipes._prompt_head import PromptHead
from graftlm.recipes._room import in_front, room_for, virtual_of
from graftlm.tasks import Problem
from graftlm.training import sorted_batches

MOST = 512  # examples: what they foresee of a vocabulary of 50,000 words is 100 MB
LOOKING = "looking"


def looking(words: int) -> Verbalizer:
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


def look(
    base: Base, run: str, config: FitConfig, method: MethodConfig, problem: Problem, examples: Sequence[Example]
) -> tuple[PromptConfig, Seen]:
    """A run's prompt with the verbalizer that is found for it, and what it was found by; the base is left as it was."""
    prompt, sites = config.prompt, base.sites()
    assert prompt is not None
    if problem.module.READS != "class":
        name = prompt.verbalizer.get("name")
        raise UserError(
            f'the verbalizer "{name}" is found by labels, which {problem.task} has none of; manual has words'
        )
    chosen = drawn(examples, config.seed)
    own = bound(prompt, (), base.tokenizer, sites, in_front(acts(method, sites)), reads=looking(sites.words))
    beside = {run: [own.act]} if own.act is not None else {}
    attached = attach(
        base.model,
        {run: method},
        seeds={run: config.seed},
        tokenizer=base.tokenizer,
        missing=base.missing,
        beside=beside,
    )
    attached.eval()
    head, virtual = PromptHead(attached, {run: own}, 0), virtual_of(attached, run)
    rows = head.encode(chosen, run, config.training.max_length or room_for(base, attached, run)).rows
    whole = torch.zeros(0)
    with torch.no_grad():
        for batch in sorted_batches([row.length for row in rows], config.training.eval_batch_size):
            attached.route(run)
            found = head([(run, rows[place], virtual) for place in batch], base.pad_id).float().cpu()
            whole = torch.zeros(len(rows), found.shape[1]) if not len(whole) else whole
            whole[batch] = found
    attached.detach()
    goals = torch.tensor([example.label for example in chosen])
    width = whole.shape[1] - sites.words
    seen = Seen(whole[:, :width], whole[:, width:], goals)
    lexicon = Lexicon(own.template, own.frame, base.sites())
    verbalizer = find(prompt.verbalizer, problem.labels, lexicon, seen)
    return prompt.model_copy(update={"verbalizer": verbalizer}), seen
