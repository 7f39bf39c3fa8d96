"""Accelerate, set up for one run."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from graftlm.core.errors import UserError, unknown
from graftlm.core.settings import FitConfig

WAIT = timedelta(days=1)  # for the main process, which may write and predict alone for long


def accelerator_of(config: FitConfig, casts: bool) -> Accelerator:
    """The precision and the trackers that a run asks for.

    Only weights that are trained in place are cast to bf16 step by step (`casts`); a frozen base is bf16 itself.
    """
    check_trackers(config.training.trackers)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    try:
        return Accelerator(
            mixed_precision="bf16" if casts and config.training.precision == "bf16" else "no",
            log_with=list(config.training.trackers) or None,  # pyright: ignore[reportArgumentType]
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
            project_dir=str(Path(config.out) / "trackers") if config.training.trackers else None,
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"trackers = {', '.join(config.training.trackers)}: {error}") from None


def check_trackers(names: Sequence[str]) -> None:
    """Refuses a tracker that does not exist, or is not installed."""
    known = set(_tracker_names())
    installed = {str(tracker.value) for tracker in get_available_trackers()}
    for name in names:
        if name not in known:
            raise unknown("tracker", name, known)
        if name not in installed:
            raise UserError(f"tracker {name} is not installed; pip install it, or leave training.trackers out")


def _tracker_names() -> list[str]:
    from accelerate.utils import LoggerType

    return [item.value for item in LoggerType if item.value != "all"]
