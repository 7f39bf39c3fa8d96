"""Which runs share a pass: the least cost of all divisions, and every run once."""

from itertools import combinations

import pytest
import torch

from graftlm.training import _widths


def cost(passes: list[list[str]], sizes: dict[str, tuple[int, int]], fixed: int) -> int:
    return sum(sum(sizes[run][0] for run in own) * max(sizes[run][1] for run in own) + fixed for own in passes)


@pytest.mark.parametrize("fixed", [0, 20, 128, 10_000])
def test_passes_cost_the_least_of_all_divisions(fixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_widths, "A_PASS", {"cpu": fixed})
    sizes = {"a": (8, 30), "b": (8, 9), "c": (4, 31), "d": (8, 12), "e": (2, 70)}
    found = _widths.alike(sizes, torch.device("cpu"))
    assert sorted(run for own in found for run in own) == sorted(sizes)
    order = sorted(sizes, key=lambda run: sizes[run][1])
    least = min(
        cost([order[i:j] for i, j in zip((0, *cuts), (*cuts, len(order)), strict=True)], sizes, fixed)
        for count in range(len(order))
        for cuts in combinations(range(1, len(order)), count)
    )
    assert cost(found, sizes, fixed) == least
    assert len(found) == {0: 5, 10_000: 1}.get(fixed, len(found))
