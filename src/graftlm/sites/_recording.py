"""The keys and values that the frozen model gives some words, taken at attention: an encoder has no cache of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graftlm.sites import _attention
from graftlm.sites._sites import Sites


@torch.no_grad()
def recorded(sites: Sites, part: str, ids: Sequence[int]) -> Tensor:
    """Token ids (L) -> a part's keys and values in a prefix's layout, (L, layers · 2 · heads · head width).

    Both stacks of an encoder-decoder read the words. What may be attached already is not in force while a model is
    being built on, so these are the bare model's.
    """
    attentions = sites.attentions(part)
    found: dict[str, list[Tensor]] = {attention.module: [] for attention in attentions}
    device = next(sites.backbone.parameters()).device
    words = torch.tensor([list(ids)], device=device)
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "use_cache": False}
    if sites.encoder_decoder:
        batch |= {"decoder_input_ids": words}
    elif not hasattr(sites.config, "use_cache"):
        del batch["use_cache"]
    with _recording(sites.backbone, {sites.model.get_submodule(path): own for path, own in found.items()}):
        sites.backbone(**batch)
    calls = {path: iter(own) for path, own in found.items()}  # a shared block is called once for each of its layers
    return torch.cat([next(calls[attention.module]) for attention in attentions], dim=-1)


@contextmanager
def _recording(backbone: nn.Module, into: dict[nn.Module, list[Tensor]]) -> Iterator[None]:
    """Attention runs through our interface and in eval mode, and its keys and values go `into` a list a module."""
    modes = [(module, module.training) for module in backbone.modules()]
    implementations = _attention.take_over(backbone)
    try:
        for module, own in into.items():
            setattr(module, _attention.RECORDER, _recorder(own))
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module in into:
            if hasattr(module, _attention.RECORDER):
                delattr(module, _attention.RECORDER)
        for module, mode in modes:
            module.training = mode
        _attention.give_back(implementations)


def _recorder(into: list[Tensor]) -> Callable[[Tensor, Tensor], None]:
    def record(key: Tensor, value: Tensor) -> None:
        """key, value (1 heads L width) each -> (L, 2 · heads · width)."""
        into.append(torch.stack((key[0], value[0])).permute(2, 0, 1, 3).flatten(1))

    return record
