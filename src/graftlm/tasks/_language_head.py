"""The base's own LM head, run at the places that are read and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftlm.core.errors import UserError
from graftlm.core.settings import HeadConfig
from graftlm.kernels.cross_entropy import UNREAD, cross_entropy
from graftlm.sites import Attached
from graftlm.tasks._head import must_train
from graftlm.tasks._token_loss import language_loss

SCALES = (0.0, 1.0, 1e3)  # of states that show what a family does behind its LM head: a bias, and a soft cap
Shown = Callable[[Tensor], Tensor]


class LanguageHead:
    """Nothing of its own: what the family does around its LM head (scales, soft caps, biases) stays as it is.

    A method on the LM head acts there as anywhere.
    """

    outputs = 0

    def __init__(self, attached: Attached, config: HeadConfig, *, trains: bool = True):
        if config != HeadConfig():
            name = "pooling" if config.pooling != "default" else "dropout"
            raise UserError(f"head.{name} = {getattr(config, name)}, but this task uses the model's own LM head")
        if trains:
            must_train(attached)
        self._attached = attached
        capped = getattr(attached.sites.config, "final_logit_softcapping", None) is not None
        self._last = False if capped else None  # whether the family does nothing behind its LM head

    @property
    def _layer(self) -> Any:
        return self._attached.base.get_output_embeddings()  # pyright: ignore[reportCallIssue]

    @contextmanager
    def reading(self, places: Tensor, shown: Shown = lambda states: states) -> Iterator[list[Tensor]]:
        """Inside, the model's logits are (b w v), those at `places` (b w), where −1 stands for any place.

        Gives a list of what the LM head was given there (b w d). `shown`: what of that the logits are of.
        """
        found: list[Tensor] = []

        def gathered(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            index = places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1])
            found.append(hidden.gather(1, index))
            return (shown(found[-1]), *args[1:])

        hook = self._layer.register_forward_pre_hook(gathered)
        try:
            yield found
        finally:
            hook.remove()

    def losses(self, places: Tensor, goals: Tensor, forward: Callable[[], Tensor]) -> Tensor:
        """The mean cross-entropy (b) of each row at `places` (b w), goals (b w'), −100 where nothing is learned.

        `forward` runs the model and gives its logits. They are never held for all places at once, but where a family
        changes them behind its LM head.
        """
        goals = functional.pad(goals[:, : places.shape[1]], (0, max(0, places.shape[1] - goals.shape[1])), value=UNREAD)
        if self._last is None:
            self._last = self._is_last(places, forward)
        if not self._last:
            with self.reading(places):
                return language_loss(forward(), goals)
        with self.reading(places, _first) as found:
            forward()
        # not the layer's hooks: one that looks at gradients fails where they are taken part by part
        return cross_entropy(found.pop(), goals, self._layer.forward, frozen=not _trained(self._layer))

    def _is_last(self, places: Tensor, forward: Callable[[], Tensor]) -> bool:
        """Tries out whether nothing is done behind the LM head; the random numbers stay as they are."""
        with torch.no_grad(), torch.random.fork_rng([places.device] if places.is_cuda else []):
            with self.reading(places, _scaled) as found:
                logits = forward()
            return torch.allclose(self._layer(_scaled(found.pop())), logits, rtol=1e-3, atol=1e-4)


def _first(states: Tensor) -> Tensor:
    """states (b w d) -> (b 1 d): those of the first place."""
    return states[:, :1]


def _scaled(states: Tensor) -> Tensor:
    """states (b w d) -> (b 3 d): those of the first place, as large as each of `SCALES` says."""
    return states[:, :1] * torch.tensor(SCALES, dtype=states.dtype, device=states.device)[:, None]


def _trained(layer: nn.Module) -> bool:
    """Whether a layer is trained, or anything acts on it."""
    return not isinstance(layer, nn.Linear) or any(parameter.requires_grad for parameter in layer.parameters())
