"""Balanced few-shot sets as LM-BFF draws them (Gao et al., 2021, arXiv:2012.15723, section 3)."""

from collections.abc import Sequence

import numpy as np

from graftlm.core.errors import UserError
from graftlm.core.example import Example


def draw(
    examples: Sequence[Example], bins: Sequence[int], names: Sequence[str], shots: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """`shots` examples of each bin for train and as many others for validation, bin after bin.

    One shuffle of all, then the first ones of each bin: the same draw as LM-BFF's script gives for the same rows.
    """
    order = np.random.RandomState(seed).permutation(len(examples)).tolist()
    train: list[Example] = []
    validation: list[Example] = []
    for place, name in enumerate(names):
        own = [examples[row] for row in order if bins[row] == place]
        if len(own) < 2 * shots:
            raise UserError(
                f"shots = {shots} takes {2 * shots} examples of each ({shots} for train, {shots} for validation), "
                f"but train has {len(own)} of {name}"
            )
        train += own[:shots]
        validation += own[shots : 2 * shots]
    return train, validation


def halves(scores: Sequence[float]) -> tuple[list[int], tuple[str, str]]:
    """Which half of the range each score lies in, and the halves' names (LM-BFF cuts STS-B's 0 to 5 at 2.5)."""
    middle = (min(scores) + max(scores)) / 2
    return [int(score >= middle) for score in scores], (f"scores below {middle:g}", f"scores from {middle:g} on")
