"""What a verbalizer is: from what a model foresees at a prompt's mask to a score for each label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graftlm.sites import Param, Tensors

Score = Callable[[Tensor, Tensor, Tensors], Tensor]


@dataclass(frozen=True)
class Verbalizer:
    """`rows` (r) are the words of the vocabulary whose logits it reads, once each.

    `score`: states (n b d) that the LM head scores words on, logits (n b r), the runs' tensors -> (n b c).
    `params` are a run's own tensors, which its adapter stores. `rate`: their learning rate where they need one.
    `loss`: scores (b c), goals (b) -> (b), where it is not the task's.
    """

    rows: Tensor
    score: Score
    params: Mapping[str, Param] = field(default_factory=dict)
    needs_states: bool = False
    rate: float | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Seen:
    """What the base foresees at the masks of some training examples before it is trained.

    states (s d), logits (s v) over the whole vocabulary, goals (s) the labels' numbers.
    """

    states: Tensor
    logits: Tensor
    goals: Tensor


@dataclass(frozen=True)
class Given:
    """What verbalizers are made from: the labels, the tokenizer, the LM head's rows (v d) and biases (v).

    `seen` is there where a module's SEES is true and the run is new; `seed` is the run's.
    """

    labels: Sequence[str]
    tokenizer: Any
    rows: Tensor
    bias: Tensor | None = None
    seen: Seen | None = None
    seed: int = 0
