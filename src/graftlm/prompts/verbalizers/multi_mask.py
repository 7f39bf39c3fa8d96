"""Words of several tokens, a mask for each (PET; Schick and Schütze, 2021, arXiv:2009.07118, section 3.1).

Trained in one pass with as many masks as the longest word has tokens, by a margin between the right word and each
other one. Asked by `rule`, with as many masks as a word has tokens. A label has one word.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._multi_mask import Rule, choice_scores, margin_loss, padded
from graftlm.prompts._verbalizer import Verbalizer, apart, of_each_label
from graftlm.sites import Tensors

NEEDS = ""


class Options(Config):
    """`words`: each label's one. `rule`: how its masks are filled: "max-first", "left-to-right", "parallel", "full"."""

    words: Annotated[Mapping[str, str], Field(min_length=1)]
    rule: Rule = "max-first"


def make(config: Options, labels: Sequence[str], lexicon: Lexicon) -> Verbalizer:
    words = [tuple(lexicon.tokens(word)) for word in of_each_label(config.words, labels)]
    _check(config, lexicon)
    apart(labels, words)
    table = padded(words)

    def scores(states: Tensor, logits: Tensor, own: Tensors) -> Tensor:
        return choice_scores(logits, table.to(logits.device))

    def loss(found: Tensor, goals: Tensor) -> Tensor:
        return margin_loss(found[:, : len(words)], goals)

    stored = {"name": "multi-mask", **config.model_dump(mode="json")}
    masks = table.shape[1] if lexicon.frame.kind == "masked" else 1
    return Verbalizer(lexicon.vocabulary(), scores, stored, masks, loss=loss, rule=config.rule, words=words)


def _check(config: Options, lexicon: Lexicon) -> None:
    if lexicon.frame.kind != "masked" and config.rule != "full":
        raise UserError(
            f'the rule "{config.rule}" fills masks one by one, which only a masked model has; "full" adds up what any '
            "other foresees"
        )
