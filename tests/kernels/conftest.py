"""Choices of kernels that no measurement decides."""

import pytest

from graftlm.kernels import Choices, choice
from graftlm.kernels.attention import KERNELS


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Choices:
    """Choices of the test's own: oneDNN where it runs, packed where that is allowed, and products for all attention."""

    class Chosen(Choices):
        def _choose(self, case: str, known: object, made: object, gain: float) -> str:
            self.found[case] = "products" if known == KERNELS else list(known)[-1]  # type: ignore[call-overload]
            return self.found[case]

    made = Chosen()
    monkeypatch.setattr(choice, "_current", [made])
    return made
