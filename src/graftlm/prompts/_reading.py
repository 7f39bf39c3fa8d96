"""A model's own LM head at the mask, and nowhere else; and over the words that a verbalizer reads, and no others.

What the backbone gives is cut down to the places that are read before the head sees it, so that the whole head, its
first layer too, runs there alone. Its last layer's product is taken with the wanted rows of its weight; what a family
does to logits afterwards (scales, soft caps) acts on them as it does on all.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftlm.sites import Attached

WHOLE_BIAS = "final_logits_bias"  # BART's family adds one number a word to the logits, behind its last layer


def read(attached: Attached, batch: dict[str, Tensor], places: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """A batch of the model's, places (b m) in what it gives -> what the last layer reads (b m d), logits (b m r).

    `rows` (r) are the wanted words, None all of them. A route must be in force.
    """
    found: list[Tensor] = []
    reader = _Reader(places)
    extra = {"use_cache": False} if hasattr(attached.base.config, "use_cache") else {}
    tokens = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"]
    one = attached.reading(places[:, 0], tokens.shape[1]) if places.shape[1] == 1 else nullcontext()
    with one, _gathered(attached, reader), _narrowed(attached.base, rows, reader, found):
        logits: Tensor = attached(**batch, **extra).logits
    return found[0], logits


@dataclass
class _Reader:
    """Takes places (b m) of states (b t d), once: some families' heads ask a part of the backbone past its whole."""

    places: Tensor
    done: bool = False

    def take(self, hidden: Tensor) -> Tensor:
        if self.done:
            return hidden
        self.done = True
        return hidden.gather(1, self.places[..., None].expand(-1, -1, hidden.shape[-1]))


@contextmanager
def _gathered(attached: Attached, reader: _Reader) -> Iterator[None]:
    """Inside, the backbone (its decoder, where it has two stacks) gives its last states (b m d) at the places alone."""
    sites = attached.sites
    both = sites.encoder_decoder or bool(getattr(sites.config, "is_encoder_decoder", False))
    module: Any = sites.backbone.get_submodule("decoder") if both else sites.backbone

    def gather(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = reader.take(output[0])
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output

    hook = module.register_forward_hook(gather)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _narrowed(base: Any, rows: Tensor | None, reader: _Reader, found: list[Tensor]) -> Iterator[None]:
    """Inside, the last layer gives the logits of `rows` alone, and `found` gathers what it reads."""
    layer: Any = base.get_output_embeddings()
    whole = layer.forward
    own = "forward" in vars(layer)  # a kernel's, which is given back
    plain = type(base.get_output_embeddings()) is nn.Linear and rows is not None

    def narrow(hidden: Tensor) -> Tensor:
        hidden = reader.take(hidden)
        found.append(hidden)
        if not plain:  # a method acts on this layer, and on all of its outputs
            logits = whole(hidden)
            return logits if rows is None else logits[..., rows]
        bias = None if layer.bias is None else layer.bias[rows]
        return functional.linear(hidden, layer.weight[rows], bias)

    added = getattr(base, WHOLE_BIAS, None)
    layer.forward = narrow
    if added is not None and rows is not None:
        setattr(base, WHOLE_BIAS, added[..., rows])
    try:
        yield
    finally:
        if own:
            layer.forward = whole
        else:
            del layer.forward
        if added is not None:
            setattr(base, WHOLE_BIAS, added)


def all_rows(wanted: list[Tensor], size: int, device: torch.device) -> tuple[Tensor | None, list[Tensor]]:
    """The words that any of several verbalizers reads, None where that is all; and where each one's are among them."""
    together = torch.cat(wanted).unique()
    if len(together) == size:
        return None, [own.to(device) for own in wanted]
    return together.to(device), [torch.searchsorted(together, own).to(device) for own in wanted]
