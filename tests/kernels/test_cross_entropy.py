"""The loss over a vocabulary part by part, against that of all logits at once."""

import pytest
import torch
from torch import Tensor, nn

from graftlm.kernels.cross_entropy import cross_entropy, reference


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("most", [1, 100, 10**6])
@pytest.mark.parametrize("width", [0, 7])
def test_parts_give_the_loss_and_the_gradients_of_the_whole(frozen: bool, most: int, width: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 11).double().requires_grad_(not frozen)
    goals = torch.randint(0, 11, (3, 7))
    goals[0, 4:], goals[2] = -100, -100
    goals = goals[:, :width]
    weights, sizes = torch.rand(3).double(), []

    def logits_of(hidden: Tensor) -> Tensor:
        sizes.append(hidden.shape[0] * hidden.shape[1] * 11)
        return layer(hidden)

    found = []
    for loss in (
        lambda hidden: reference(layer(hidden), goals),
        lambda hidden: cross_entropy(hidden, goals, logits_of, frozen=frozen, most=most),
    ):
        hidden = torch.randn(3, width, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        each = loss(hidden.requires_grad_())
        (each * weights).sum().backward()
        found.append([each.detach(), hidden.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
        layer.zero_grad()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert max(sizes, default=0) <= max(most, 33)
    assert len(found[0]) == (2 if frozen else 4)


def test_a_second_derivative_behind_a_frozen_layer_is_refused() -> None:
    layer = nn.Linear(4, 9).requires_grad_(requires_grad=False)
    hidden, goals = torch.randn(2, 3, 4, requires_grad=True), torch.zeros(2, 3, dtype=torch.long)
    loss = cross_entropy(hidden, goals, layer, frozen=True).square().sum()
    (slope,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


def test_nothing_of_a_vocabularys_size_is_kept_for_the_backward_pass() -> None:
    layer = nn.Linear(4, 1000).requires_grad_(requires_grad=False)
    hidden, kept = torch.randn(2, 10, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        cross_entropy(hidden, torch.zeros(2, 10, dtype=torch.long), layer, frozen=True, most=4000)
    assert max(kept) <= 4000
