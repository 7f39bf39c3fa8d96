"""Head only: the base is left as it is, and only the task's head is trained on it (a linear probe)."""

from collections.abc import Sequence

from graftlm.methods._method import MethodConfig
from graftlm.sites import Act, Sites

PAPER = ""
KIND = "none"
MERGEABLE = True
LEARNING_RATE = 1e-3
TRAINS = "nothing but the task's head"
STORES = "nothing but the task's head"


class HeadConfig(MethodConfig):
    """No options."""


def acts(config: HeadConfig, sites: Sites) -> Sequence[Act]:
    return []
