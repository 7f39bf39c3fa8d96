"""Full fine-tuning: every weight of the base is trained in place. The baseline; it cannot share the base."""

from collections.abc import Sequence

from graftlm.methods._method import MethodConfig
from graftlm.sites import Act, Select, Sites

PAPER = ""
KIND = "select"
MERGEABLE = True
LEARNING_RATE = 5e-5
TRAINS = "every weight of the base that a task reads"
STORES = "the same weights"


class FullConfig(MethodConfig):
    """No options."""


def acts(config: FullConfig, sites: Sites) -> Sequence[Act]:
    names = [name for name, _ in sites.model.named_parameters()]
    return [Select(name) for name in names if name.rpartition(".")[0] not in sites.idle]
