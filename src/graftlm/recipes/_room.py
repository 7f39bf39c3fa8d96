"""How many of a model's positions a run's virtual tokens and prefixes leave for text."""

from collections.abc import Sequence

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.sites import PROMPT, Act, Attached, Past, Sites, Tokens


def virtual_of(attached: Attached, run: str) -> list[int]:
    """The ids of a run's virtual tokens in front of the text."""
    first = attached.sites.vocabulary
    return list(range(first, first + in_front(attached.acts[run])))


def in_front(acts: Sequence[Act]) -> int:
    """How many virtual tokens stand in front of the text."""
    return sum(act.length for act in acts if isinstance(act, Tokens) and act.place == PROMPT)


def row_room(max_length: int | None, limit: int, virtual: int) -> int:
    """The most tokens of a row: `max_length` of text and its template's `virtual` ones, as far as `limit` allows."""
    return limit if max_length is None else min(max_length + virtual, limit)


def room_for(base: Base, sites: Sites, acts: Sequence[Act], run: str) -> int:
    """How many positions are left for the text; refuses a prefix or prompt that leaves fewer than 8.

    The encoder and the decoder of a model that has both count positions each for itself; the fuller one decides.
    """
    positions = sites.positions
    longest = min(int(base.tokenizer.model_max_length), positions or 1 << 20, 1 << 20)
    if positions is None:
        return longest
    taken: dict[str, int] = {}
    for act in acts:
        if isinstance(act, Past) or (isinstance(act, Tokens) and act.place == PROMPT):
            stream = act.part if isinstance(act, Past) else "encoder" if sites.encoder_decoder else ""
            taken[stream] = taken.get(stream, 0) + _taken(act, positions)
    most = max(taken.values(), default=0)
    if positions - most < 8:
        raise UserError(
            f'run "{run}" puts {most} virtual tokens before the text, but {base.source.name} has {positions} positions'
        )
    return min(longest, positions - most)


def _taken(act: Past | Tokens, positions: int) -> int:
    """How far a prefix or prompt moves the text; a prompt that does not move it must still have its own positions."""
    if isinstance(act, Past):
        return act.position_shift
    return act.length if act.length > positions else act.length + act.position_shift
