"""Layers that are given anything but a row for each text, where a route cannot tell the runs of a batch apart, and
layers that read padding."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftlm.sites._acts import Act, Branch, Tokens

if TYPE_CHECKING:
    from graftlm.sites._sites import Sites

ROWS, TOKENS = 3, 5  # of the batch that is tried
ROUNDING = 1e-3  # of the largest state


def mixed(sites: "Sites", acts: Sequence[Act]) -> str | None:
    """A layer that acts stand at and that mixes rows, or None."""
    needed = {act.site.module for act in acts if isinstance(act, Branch)}
    if any(isinstance(act, Tokens) for act in acts) and sites.table is None:
        embedding = sites.embedding()
        needed |= {path for path, module in sites.model.named_modules() if module is embedding}
    return min(needed & sites.mixing, default=None)


@torch.no_grad()
def mixing(sites: "Sites") -> frozenset[str]:
    """The paths of a backbone's layers that are not given (rows …) or (rows · tokens, width) in a forward pass.

    XLNet's layers see (tokens rows width), an expert the tokens that are sent to it, DeBERTa's queries and keys the
    distances between tokens besides.
    """
    found: set[str] = set()
    ids = torch.arange(ROWS * TOKENS, device=next(sites.backbone.parameters()).device) % sites.vocabulary
    batch = {"input_ids": ids.reshape(ROWS, TOKENS), "attention_mask": torch.ones_like(ids).reshape(ROWS, TOKENS)}
    if sites.encoder_decoder:
        batch |= {"decoder_input_ids": batch["input_ids"]}
    with _watched(sites, found):
        sites.backbone(**batch)
    return frozenset(found)


@torch.no_grad()
def reads_padding(sites: "Sites") -> bool:
    """Whether a backbone's states of a text depend on padding at its right, or at its left where texts are generated.

    FNet's and ConvBERT's layers mix padding in, and RWKV's state remembers it. A family that does not take texts of the
    lengths that are tried, as Nystromformer, is not known to.
    """
    try:
        return _reads_padding(sites)
    except RuntimeError:
        return False


def _reads_padding(sites: "Sites") -> bool:
    named = getattr(sites.config, "pad_token_id", None)
    padding = named if isinstance(named, int) and 0 <= named < sites.vocabulary else 0
    words = [word for word in range(TOKENS + 1) if word != padding][:TOKENS]
    ids = torch.tensor([words], device=next(sites.backbone.parameters()).device)
    fixed = {"decoder_input_ids": ids} if sites.encoder_decoder else {}
    writes = not sites.encoder_decoder and getattr(sites.model, "can_generate", lambda: False)()
    placed = "position_ids" in inspect.signature(sites.backbone.forward).parameters
    with _watched(sites, set()):
        alone = sites.backbone(input_ids=ids, attention_mask=torch.ones_like(ids), **fixed)[0]
        for left in (0, TOKENS) if writes else (0,):
            sides = (left, TOKENS - left)
            mask = F.pad(torch.ones_like(ids), sides)
            given = {"input_ids": F.pad(ids, sides, value=padding), "attention_mask": mask}
            if left and placed:
                given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
            found = sites.backbone(**given, **fixed)[0]
            own = found if fixed else found[:, left : left + TOKENS]
            if not bool((own - alone).abs().max() <= ROUNDING * alone.abs().max()):
                return True
    return False


@contextmanager
def _watched(sites: "Sites", found: set[str]) -> Iterator[None]:
    """In eval mode, the paths of modules with weights whose inputs are no rows go into `found`."""
    modes = [(module, module.training) for module in sites.backbone.modules()]
    hooks = [
        module.register_forward_pre_hook(_note(sites.prefix + path, found), with_kwargs=True)
        for path, module in sites.backbone.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    ]
    sites.backbone.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode


def _note(path: str, found: set[str]) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(iter((*args, *kwargs.values())))
        if not (isinstance(x, Tensor) and _keeps_rows(x)):
            found.add(path)

    return note


def _keeps_rows(x: Tensor) -> bool:
    return x.shape[0] == ROWS or (x.is_floating_point() and x.dim() == 2 and x.shape[0] == ROWS * TOKENS)
