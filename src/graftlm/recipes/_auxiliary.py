"""Masked language modelling beside a prompt's own loss, on the same filled templates (PET's auxiliary loss)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from graftlm.checkpoint import Base
from graftlm.objectives import mlm
from graftlm.recipes._prompt_head import PromptHead
from graftlm.tasks import Features


def beside(
    head: PromptHead,
    base: Base,
    losses: Mapping[str, Tensor],
    rows: Mapping[str, Sequence[Features]],
    keys: Mapping[str, Tensor],
    virtual: Mapping[str, Sequence[int]],
) -> dict[str, Tensor]:
    """The losses, by run, of those that have it beside their own, in one more pass. `keys` say what is drawn."""
    shares = {run: head.prompts[run].config.mlm_weight for run in rows if head.prompts[run].config.mlm_weight}
    if not shares:
        return {}
    attached, tokenizer = head.attached, base.tokenizer
    vocabulary, special = attached.sites.vocabulary, set(tokenizer.all_special_ids)
    shown: list[tuple[str, Features, Sequence[int]]] = []
    words: list[Tensor] = []
    for run in shares:
        masked, own = masked_rows(rows[run], keys[run], special, _mask(head, run), vocabulary)
        shown += [(run, row, virtual[run]) for row in masked]
        words += own
    attached.route([run for run, _, _ in shown], torch.cat([keys[run] for run in shares]).to(attached.device))
    logits = head.vocabulary(shown, base.pad_id)
    goals = torch.nn.utils.rnn.pad_sequence(words, True, mlm.UNREAD)[:, : logits.shape[1]].to(logits.device)
    parts = mlm.loss(logits, goals).split([len(rows[run]) for run in shares])
    return {run: mlm.beside(losses[run], own, shares[run]) for run, own in zip(shares, parts, strict=True)}


def masked_rows(
    rows: Sequence[Features], keys: Tensor, special: Collection[int], mask: int, vocabulary: int
) -> tuple[list[Features], list[Tensor]]:
    """The rows with more masks, read at those, and what stood there.

    The template's own mask is a special token, and so stays. A row without words keeps its first place, and no loss.
    """
    found: list[Features] = []
    words: list[Tensor] = []
    for row, key in zip(rows, keys.tolist(), strict=True):
        own = mlm.masked(row.ids, special, mask, vocabulary, key)
        found.append(replace(row, ids=own.ids, places=own.places or [0]))
        words.append(torch.tensor(own.words or [mlm.UNREAD]))
    return found, words


def _mask(head: PromptHead, run: str) -> int:
    mask = head.prompts[run].frame.mask
    assert mask is not None, "a masked model has a mask"
    return mask[1]
