"""What a run's base foresees at the mask before it is trained, which some verbalizers are chosen or fitted by."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """Of s training examples: states (s d) that the LM head's last layer reads, logits (s v) of the whole vocabulary,
    and goals (s), the labels' numbers.
    """

    states: Tensor
    logits: Tensor
    goals: Tensor
