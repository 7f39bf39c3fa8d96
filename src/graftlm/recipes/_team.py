"""The processes of one run, as `accelerate launch` starts them: the main one alone writes, and speaks for all."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from graftlm.core.errors import Stopped, UserError
from graftlm.core.reporter import Reporter, Silent
from graftlm.recipes._signals import Never, Stopping

Found = TypeVar("Found")


class Team:
    """Those processes, as one of them sees them; a process alone is the main one."""

    def __init__(self, accelerator: Accelerator):
        self.alone, self.main = accelerator.num_processes == 1, accelerator.is_main_process

    def agreed(self, work: Callable[[], Found]) -> Found:
        """What `work` gives in the main process, in all of them; what it raises for the user, too."""
        if self.alone:
            return work()
        box: list[Any] = [None, None]
        if self.main:
            try:
                box[0] = work()
            except (UserError, Stopped) as error:
                box[1] = error
        broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def heard(self, reporter: Reporter) -> Reporter:
        return reporter if self.main else Silent()

    def within_evaluations(self, stopper: Stopping) -> Stopping:
        """What stops an evaluation in the middle: only a process alone may leave one, the others would wait for it."""
        return stopper if self.alone else Never()
