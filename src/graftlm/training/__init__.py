"""The loop, on Accelerate: batches, optimizers, schedules, early stopping; one run or many in one pass."""

from graftlm.training._batches import epoch_batches, sorted_batches
from graftlm.training._loop import Outcome, Plan, steps_of, train
from graftlm.training._optim import optimizers

__all__ = ["Outcome", "Plan", "epoch_batches", "optimizers", "sorted_batches", "steps_of", "train"]
