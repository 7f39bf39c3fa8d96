"""A template's virtual tokens as an act: a method's own table, or what it makes one from, in the template's places."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Generator, Tensor

from graftlm import methods
from graftlm.core.errors import UserError
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._template import Soft
from graftlm.sites import Param, Tokens

PLACE = "template"
STARTED = ("values", "embedding")  # a method's tensors that virtual tokens begin as


@dataclass(frozen=True)
class SoftPieces:
    """The ids of each virtual piece, the act that looks them up, and the options that its stored form has.

    `words`: the token that each id of tuned words starts as.
    """

    slots: Mapping[Soft, list[int]]
    act: Tokens | None
    stored: Mapping[str, Any]
    words: Mapping[int, int] = field(default_factory=dict)


def soft_pieces(lexicon: Lexicon, given: Mapping[str, Any], first: int) -> SoftPieces:
    """A template's virtual pieces, behind the run's `first` virtual tokens. `given` is a method of virtual tokens."""
    template, sites = lexicon.template, lexicon.sites
    starts = {piece: lexicon.placed(piece.words, piece) if piece.words else [] for piece in template.softs}
    options = {name: value for name, value in given.items() if name != "name"}
    method = str(given.get("name", ""))
    slots: dict[Soft, list[int]] = {}
    size = 0
    for piece, words in starts.items():
        count = len(words) or piece.length
        slots[piece] = list(range(sites.vocabulary + first + size, sites.vocabulary + first + size + count))
        size += count
    if not size:
        return SoftPieces({}, None, given)
    if "length" in options:
        raise UserError(
            f"prompt.soft.length = {options['length']} means nothing: a template says how many, as {{soft:3}}"
        )
    if "length" not in type(methods.parse(method, options, where="prompt.soft.")).model_fields:
        raise _none(method)
    config = methods.parse(method, {**options, "length": size}, where="prompt.soft.")
    if not getattr(config, "position_shift", True):
        raise UserError("prompt.soft.position_shift = false means nothing: a template's virtual tokens have its places")
    acts = methods.acts(config, sites)
    if len(acts) != 1 or not isinstance(acts[0], Tokens):
        raise _none(method)
    act = replace(acts[0], first=first, place=PLACE, position_shift=0)
    ids = [word for piece, words in starts.items() for word in words or [-1] * piece.length]
    if any(word >= 0 for word in ids):
        act = replace(act, params=_started(act.params, ids, sites.embedding().weight, method))
    stored = methods.kept(config)
    options = {"name": stored.method, **stored.model_dump(mode="json", exclude={"length"})}
    said = {slot: word for piece, words in starts.items() for slot, word in zip(slots[piece], words, strict=False)}
    return SoftPieces(slots, act, options, said)


def _none(method: str) -> UserError:
    return UserError(f'prompt.soft = "{method}" makes no virtual tokens; prompt-tuning, ptuning and instance-prompt do')


def _started(params: Mapping[str, Param], ids: list[int], weight: Tensor, method: str) -> dict[str, Param]:
    """The tensors, those that virtual tokens begin as with some rows from the words' embeddings."""
    name = next((name for name in STARTED if name in params), None)
    if name is None:
        raise UserError(f"{method} makes its virtual tokens from each text, so they start from no words; give a number")
    plain = params[name]

    def init(generator: Generator) -> Tensor:
        made = plain.init(generator)
        for row, word in enumerate(ids):
            if word >= 0:
                made[row] = weight[word].detach().float().cpu()
        return made

    return {**params, name: Param(plain.shape, init)}
