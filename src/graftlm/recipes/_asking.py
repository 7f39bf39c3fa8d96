"""Labels asked for by prompts, where nothing is learned: words of several tokens by their rule, answers calibrated."""

from collections.abc import Sequence

from torch import Tensor

from graftlm.prompts import before, calibrated
from graftlm.recipes._filled import filled_scores
from graftlm.recipes._prompt_head import PromptHead
from graftlm.tasks import Features


def asked(head: PromptHead, run: str, rows: Sequence[Features], virtual: Sequence[int], pad: int, size: int) -> Tensor:
    """The logits (rows outputs) of one run's rows, on the CPU; words of several tokens in batches of `size`."""
    prompt = head.prompts[run]
    rule, words = prompt.verbalizer.rule, prompt.verbalizer.words
    if rule is None:
        head.attached.route(run)
        return head([(run, row, virtual) for row in rows], pad).float().cpu()

    def vocabulary(own: Sequence[Features]) -> Tensor:
        head.attached.route(run)
        return head.vocabulary([(run, row, virtual) for row in own], pad)

    found = filled_scores(vocabulary, rows, words, rule, prompt.frame.kind, size)
    return head.scored(run, found).cpu()


def without_prompt(
    head: PromptHead, run: str, logits: Tensor, room: int, virtual: Sequence[int], pad: int, size: int
) -> Tensor:
    """logits (rows c) without what the prompt says before it has read a text, where the run asks for that."""
    blank = head.blank(run, room)
    return calibrated(logits, before(asked(head, run, blank, virtual, pad, size))) if blank else logits
