"""The base's own LM head, run at the places that are read and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.core.settings import HeadConfig
from graftlm.sites import Attached
from graftlm.tasks._head import must_train


class LanguageHead:
    """Nothing of its own: what the family does around its LM head (scales, soft caps, biases) stays as it is.

    A method on the LM head acts there as anywhere.
    """

    outputs = 0

    def __init__(self, attached: Attached, config: HeadConfig):
        if config != HeadConfig():
            name = "pooling" if config.pooling != "default" else "dropout"
            raise UserError(f"head.{name} = {getattr(config, name)}, but this task uses the model's own LM head")
        must_train(attached)
        self._attached = attached

    @contextmanager
    def reading(self, places: Tensor) -> Iterator[None]:
        """Inside, the model's logits are (b w v), those at `places` (b w), where −1 stands for any place."""
        layer: Any = self._attached.base.get_output_embeddings()  # pyright: ignore[reportCallIssue]

        def gathered(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            index = places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1])
            return (hidden.gather(1, index), *args[1:])

        hook = layer.register_forward_pre_hook(gathered)
        try:
            yield
        finally:
            hook.remove()
