"""Which acts of which runs share a bank, and in what order banks act."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.sites._acts import Act, Branch, Past, Select, Tokens

Sharing = Branch | Past | Tokens  # what can share the base


def grouped(acts: Mapping[str, Sequence[Act]]) -> list[dict[str, Sharing]]:
    """The members of each bank by run, so placed that a run's acts at one place act in the order given."""
    groups: dict[tuple[Any, ...], dict[str, Sharing]] = {}
    for run, own in acts.items():
        turns: Counter[str] = Counter()
        for act in own:
            if not isinstance(act, Select):
                place = place_of(act)
                groups.setdefault((turns[place], *_likeness(act)), {})[run] = act
                turns[place] += 1
    return [members for _, members in sorted(groups.items(), key=lambda group: group[0][0])]


def place_of(act: Sharing) -> str:
    """What stands before the names of an act's stored tensors."""
    return act.site.name if isinstance(act, Branch) else act.place


def _likeness(act: Sharing) -> tuple[Any, ...]:
    """What runs must have in common to share a bank: the kind of act, the place, the maths, the tensors' names."""
    kind, names = type(act).__name__, tuple(act.params)
    if isinstance(act, Branch):
        return (kind, place_of(act), act.site.module, act.where, act.forward, names, tuple(act.constants))
    if isinstance(act, Past):
        return (kind, place_of(act), act.derive, act.gate, names)
    return (kind, place_of(act), act.derive, act.from_input, act.alike, names)
