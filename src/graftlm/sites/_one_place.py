"""One place of each row, taken out of states and put back."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OnePlace:
    """Which place of each row it is, index (rows 1), of the `length` that a row has."""

    index: Tensor
    length: int

    def fits(self, x: Tensor) -> bool:
        """Whether x is states of these rows, (rows t d)."""
        return x.dim() == 3 and x.shape[:2] == (self.index.shape[0], self.length)

    def take(self, x: Tensor) -> Tensor:
        """x (rows t d) -> (rows 1 d)."""
        return x.gather(1, self._wide(x))

    def put(self, x: Tensor) -> Tensor:
        """x (rows 1 d) -> (rows t d), zero at all other places."""
        return x.new_zeros(x.shape[0], self.length, x.shape[-1]).scatter(1, self._wide(x), x)

    def _wide(self, x: Tensor) -> Tensor:
        return self.index[..., None].expand(-1, -1, x.shape[-1])
