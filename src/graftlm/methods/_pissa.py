"""PiSSA (Meng et al., 2024, arXiv:2404.02948): the factors start at the first singular parts of the frozen weight.

With W = U S Vᵀ, down = √(S_r / scale) V_rᵀ and up = U_r √(S_r / scale), so scale · up down is W's best approximation
of rank r. The paper freezes the rest, W − scale · up₀ down₀; here W stays as it is, and the run subtracts what its
factors started at: y' = y + scale · (up down − up₀ down₀) x. That is a LoRA of rank 2 r, and is stored as one.
Dropout is on the x of that whole change, so that a fresh run is the base in training too; PEFT has it on the x of
scale · up down x alone.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from graftlm.sites import Param, Site, Tensors


def principal(weight: Tensor, rank: int, scale: float, iterations: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """weight (d_out d_in) -> down (rank d_in), up (d_out rank).

    With `iterations`, by that many steps of randomised subspace iteration from `seed`, else by a whole decomposition.
    """
    if iterations is None:
        left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator alone
            torch.default_generator.manual_seed(seed)
            left, values, right = torch.svd_lowrank(
                weight.float().cpu(), q=min(rank + 8, *weight.shape), niter=iterations
            )
        right = right.mT
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def params(
    site: Site, weight: Callable[[], Tensor], rank: int, scale: float, iterations: int | None
) -> dict[str, Param]:
    """The trained factors and what they start at, `down0` and `up0`, from one decomposition."""
    waiting: dict[str, Tensor] = {}  # emptied as the four are drawn, so that nothing is held afterwards

    def start(name: str) -> Callable[[Generator], Tensor]:
        def init(generator: Generator) -> Tensor:
            if name not in waiting:
                down, up = principal(weight(), rank, scale, iterations, generator.initial_seed())
                waiting.update(down=down, up=up, down0=down, up0=up)
            return waiting.pop(name)

        return init

    down, up = (rank, site.d_in), (site.d_out, rank)
    trained = {"down": Param(down, start("down")), "up": Param(up, start("up"))}
    return trained | {
        "down0": Param(down, start("down0"), trained=False),
        "up0": Param(up, start("up0"), trained=False),
    }


def joined(p: Tensors) -> dict[str, Tensor]:
    """The change from the start as factors of rank 2 r: down (… 2r d_in), up (… d_out 2r)."""
    return {"down": torch.cat((p["down"], p["down0"]), -2), "up": torch.cat((p["up"], -p["up0"]), -1)}
