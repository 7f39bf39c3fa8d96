"""Few-shot sets as LM-BFF draws them (Gao et al., 2021): K examples a label to train on, K others to validate on."""

from collections.abc import Hashable, Sequence

import numpy as np

from graftlm.core.errors import UserError
from graftlm.core.example import Example


def few_shot(
    examples: Sequence[Example], shots: int, seed: int, labels: Sequence[str]
) -> tuple[list[Example], list[Example]]:
    """Balanced train and validation sets from the training examples; scores are balanced over two halves of their range."""
    groups: dict[Hashable, list[Example]] = {}
    if labels:
        for index in range(len(labels)):
            groups[labels[index]] = [example for example in examples if example.label == index]
    else:
        middle = float(np.median([example.score for example in examples]))  # pyright: ignore[reportArgumentType, reportCallIssue]
        groups["lower half"] = [example for example in examples if (example.score or 0.0) <= middle]
        groups["upper half"] = [example for example in examples if (example.score or 0.0) > middle]
    random = np.random.default_rng(seed)
    train: list[Example] = []
    validation: list[Example] = []
    for name, own in groups.items():
        if len(own) < 2 * shots:
            raise UserError(f'shots = {shots} needs {2 * shots} training examples of "{name}" (half to validate); there are {len(own)}')
        order = random.permutation(len(own))
        train += [own[index] for index in order[:shots]]
        validation += [own[index] for index in order[shots : 2 * shots]]
    return train, validation
