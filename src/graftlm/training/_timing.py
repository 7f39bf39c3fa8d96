"""How many runs to train at once: the fewest that are nearly as quick a run as any number that memory holds."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from graftlm.training._batches import epoch_batches
from graftlm.training._state import Plan
from graftlm.training._widths import Size, alike, batch_sizes

NEARLY, WORSE = 0.97, 0.85  # of the best rate so far: good enough to choose, and too bad to look any further
SECONDS = 20.0  # that looking may take
Losses = Callable[[Mapping[str, Sequence[int]], Mapping[str, int]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Timing:
    """`together`: the chosen number; `seconds`: of the passes of a step of so many runs, by how many.

    There are no seconds where such a pass fails.
    """

    together: int
    seconds: Mapping[int, float]

    @property
    def a_run(self) -> float | None:
        """Seconds of one run's share of a pass, where that is known."""
        return self.seconds[self.together] / self.together if self.seconds else None


def timed(
    losses: Losses, plans: Mapping[str, Plan], accelerator: Accelerator, most: int, *, exactly: bool = False
) -> Timing:
    """Times steps of 1, 2, 4, … and `most` runs with their first batches, or `exactly` so many.

    No weight and no random number changes.
    """
    counts = [1 << power for power in range(16) if 1 << power < most and not exactly] + [most]
    batches = {run: _first(plan) for run, plan in plans.items()}
    sizes = batch_sizes(
        {run: [rows] for run, rows in batches.items()}, {run: plan.lengths for run, plan in plans.items()}
    )
    runs, seconds, started = list(plans), dict[int, float](), time.perf_counter()
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    for count in counts:
        try:
            rows = {run: batches[run] for run in runs[:count]}
            own = {run: sizes[run] for run in rows}
            with torch.random.fork_rng(devices):
                if not seconds:
                    _step(losses, rows, own, accelerator)  # the first one compiles and allocates
                seconds[count] = min(_step(losses, rows, own, accelerator) for _ in range(2))
        except Exception:  # the step itself will tell which run fails, or how many fit
            break
        finally:
            for plan in plans.values():
                for parameter in plan.parameters.values():
                    parameter.grad = None
        rates = {many: many / each for many, each in seconds.items()}
        late = time.perf_counter() - started > SECONDS
        if late or rates[count] < WORSE * max(rates.values()):
            break
    rates = {many: many / each for many, each in seconds.items()}
    if not rates:
        return Timing(counts[0], {})
    return Timing(min(many for many, rate in rates.items() if rate >= NEARLY * max(rates.values())), seconds)


def _first(plan: Plan) -> list[int]:
    return epoch_batches(plan.lengths, plan.config.batch_size, plan.seed, 0, plan.config.batch_tokens)[0]


def _step(
    losses: Losses, rows: Mapping[str, Sequence[int]], sizes: Mapping[str, Size], accelerator: Accelerator
) -> float:
    """Seconds of a step's passes, as the loop makes them."""
    started = time.perf_counter()
    for runs in alike(sizes, accelerator.device):
        with accelerator.autocast():
            found = losses({run: rows[run] for run in runs}, dict.fromkeys(runs, 0))
        accelerator.backward(torch.stack([loss.mean() for loss in found.values()]).sum())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
