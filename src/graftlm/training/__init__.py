"""The loop, on Accelerate: batches, optimizers, schedules, early stopping; one run or many in one pass."""

from graftlm.training._batches import epoch_batches, sorted_batches
from graftlm.training._keeping import Halted, Keeping, Leave
from graftlm.training._loop import train
from graftlm.training._memory import first_line, out_of_memory
from graftlm.training._optim import optimizers
from graftlm.training._state import Outcome, Plan, Snapshot, only, steps_of
from graftlm.training._step import Losses
from graftlm.training._timing import Timing, timed

__all__ = [
    "Halted",
    "Keeping",
    "Leave",
    "Losses",
    "Outcome",
    "Plan",
    "Snapshot",
    "Timing",
    "epoch_batches",
    "first_line",
    "only",
    "optimizers",
    "out_of_memory",
    "sorted_batches",
    "steps_of",
    "timed",
    "train",
]
