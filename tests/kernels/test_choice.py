"""What is told of a processor by timing it."""

import pytest
import torch

from graftlm.kernels import choice


@pytest.mark.parametrize(("seconds", "told"), [((2.0, 1.0), True), ((1.1, 1.0), False), ((0.5, 1.0), False)])
def test_a_precision_that_is_slow_here_is_told(
    seconds: tuple[float, float], told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_seconds", lambda calls: dict(zip(calls, seconds, strict=True)))
    assert (choice.Choices().precision(torch.zeros(8, 8)) == "float32") == told
