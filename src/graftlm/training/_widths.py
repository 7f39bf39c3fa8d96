"""Which runs share a pass: those whose batches are about as long, since all rows of a pass are as long as the longest.

Each run's order of examples is its own, so that at one step some have a batch of short texts and others of long ones.
"""

from collections.abc import Mapping, Sequence

import torch

Size = tuple[int, int]  # rows, and tokens in the longest
A_PASS = {"cpu": 128}  # tokens that take about as long as what a pass costs whatever its size: estimates, not measured
ON_ACCELERATOR = 4096


def batch_sizes(drawn: Mapping[str, Sequence[Sequence[int]]], lengths: Mapping[str, Sequence[int]]) -> dict[str, Size]:
    """The rows of each run's largest batch, and its tokens in the longest row of any."""
    return {
        run: (max(map(len, parts)), max((lengths[run][row] for part in parts for row in part), default=0))
        for run, parts in drawn.items()
    }


def alike(sizes: Mapping[str, Size], device: torch.device) -> list[list[str]]:
    """Runs in the passes that take the least time together: that of their tokens, padding included, and of a pass.

    Sorted by length the best passes are neighbours, so that the best of all divisions is found run by run.
    """
    runs = sorted(sizes, key=lambda run: sizes[run][1])
    fixed = A_PASS.get(device.type, ON_ACCELERATOR)
    least, starts = [0], [0]  # of the first runs: the least cost, and where their last pass begins
    for end in range(1, len(runs) + 1):
        longest, rows, found = sizes[runs[end - 1]][1], 0, []
        for start in range(end - 1, -1, -1):
            rows += sizes[runs[start]][0]
            found.append((least[start] + rows * longest + fixed, start))
        cost, start = min(found)
        least.append(cost)
        starts.append(start)
    passes, end = [], len(runs)
    while end:
        own = set(runs[starts[end] : end])
        passes.append([run for run in sizes if run in own])
        end = starts[end]
    return passes[::-1]
