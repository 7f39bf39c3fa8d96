"""What a verbalizer's file holds: one config class, and `make(config, labels, lexicon)`, which gives a `Verbalizer`.

The file's name is the verbalizer's: `verbalizers/manual.py` is "manual".
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graftlm.core import registry
from graftlm.core.config import Config
from graftlm.core.errors import UserError, unknown
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._multi_mask import Rule
from graftlm.sites import Param, Tensors

PACKAGE = "graftlm.prompts.verbalizers"
MANUAL = "manual"
Scores = Callable[[Tensor, Tensor, Tensors], Tensor]


@dataclass(frozen=True)
class Verbalizer:
    """How labels are read off a mask.

    `scores` takes what the LM head's last layer reads at each mask (b m d), the logits (b m r) of the vocabulary's
    `rows` (r) there, and the run's own tensors, and gives the labels' logits (b c). `masks`: how many tokens stand for
    the template's mask, one after another. `params` are trained with the run and stored with its adapter. `config` is
    what is stored: the verbalizer's name and all its options. `rate` is the tensors' learning rate, where they need one
    of their own; `loss`: labels' logits (b c), goals (b) -> (b), where it is not the task's. `learns`, where it is
    not None, gives what the run's loss is of, (b k), in place of `scores`. Where `rule` is given,
    labels are asked for by filling the tokens of each one's of `words` into masks. `notes`: what a user should be told.
    """

    rows: Tensor
    scores: Scores
    config: Mapping[str, Any]
    masks: int = 1
    params: Mapping[str, Param] = field(default_factory=dict)
    rate: float | None = None
    learns: Scores | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    rule: Rule | None = None
    words: Sequence[tuple[int, ...]] = ()
    notes: tuple[str, ...] = ()


def make(given: Mapping[str, Any], labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    """A verbalizer from its options; `{"positive": "great"}` is short for {"name": "manual", "words": …}."""
    name, config = named(given)
    found: Verbalizer = registry.load(PACKAGE, "verbalizer", name).make(config, labels, lexicon)
    return found


def named(given: Mapping[str, Any]) -> tuple[str, Config]:
    """A verbalizer's name and its options."""
    options = dict(given)
    name = MANUAL
    if isinstance(options.get("name"), str) and options["name"] in registry.modules(PACKAGE):
        name = options.pop("name")
    elif isinstance(options.get("name"), str) and "words" in options:
        raise unknown("verbalizer", options["name"], registry.modules(PACKAGE))
    else:
        options = {"words": options}
    config: Config = registry.load(PACKAGE, "verbalizer", name).Options.parse(options, where="prompt.verbalizer.")
    return name, config


def of_each_label(words: Mapping[str, Any], labels: Sequence[str]) -> list[Any]:
    """Each label's words, in the labels' order; a label without words, and words of no label, are errors."""
    for name in words:
        if name not in labels:
            raise unknown("label", name, labels)
    missing = next((label for label in labels if label not in words), None)
    if missing is not None:
        raise UserError(f'the verbalizer has no word for the label "{missing}"; it has them for {", ".join(words)}')
    return [words[label] for label in labels]


def apart(labels: Sequence[str], read: Sequence[Hashable]) -> None:
    """Refuses two labels that are `read` off the same tokens, whose logits would always be equal."""
    first: dict[Hashable, str] = {}
    for label, own in zip(labels, read, strict=True):
        if (other := first.setdefault(own, label)) != label:
            raise UserError(
                f'the labels "{other}" and "{label}" have the same words for this model, so that nothing tells them '
                "apart; give one of them other words"
            )
