"""Balanced few-shot sets as LM-BFF draws them (Gao et al., 2021, arXiv:2012.15723, section 3)."""

from collections.abc import Sequence

import numpy as np

from graftlm.core.errors import UserError
from graftlm.core.example import Example


def draw(
    examples: Sequence[Example], bins: Sequence[int], names: Sequence[str], shots: int, seed: int, halve: bool = False
) -> tuple[list[Example], list[Example]]:
    """`shots` examples of each bin for train and as many others for validation, bin after bin.

    One shuffle of all, then the first ones of each bin: the same draw as LM-BFF's script gives for the same rows. A bin
    with fewer than twice the shots is an error, or with `halve` gives half of its examples to each of the two.
    """
    order = np.random.RandomState(seed).permutation(len(examples)).tolist()
    train: list[Example] = []
    validation: list[Example] = []
    for place, name in enumerate(names):
        own = [examples[row] for row in order if bins[row] == place]
        least = 2 if halve else 2 * shots
        if len(own) < least:
            way_out = "" if halve else '; data.shots_rare = "half" takes half of these for each'
            raise UserError(
                f"shots = {shots} takes {least} examples of each ({least // 2} for train, {least // 2} for "
                f"validation), but train has {len(own)} of {name}{way_out}"
            )
        most = min(shots, len(own) // 2)
        train += own[:most]
        validation += own[most : 2 * most]
    return train, validation


def halves(scores: Sequence[float]) -> tuple[list[int], tuple[str, str]]:
    """Which half of the range each score lies in, and the halves' names (LM-BFF cuts STS-B's 0 to 5 at 2.5)."""
    middle = (min(scores) + max(scores)) / 2
    return [int(score >= middle) for score in scores], (f"scores below {middle:g}", f"scores from {middle:g} on")
