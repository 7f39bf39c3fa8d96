"""Top-k: the k highest layers are trained in place, with the norm and the pooler above them, if there are any."""

from collections.abc import Sequence

from pydantic import PositiveInt

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig
from graftlm.sites import Act, Select, Sites

PAPER = ""
KIND = "select"
MERGEABLE = True
LEARNING_RATE = 5e-5
TRAINS = "the k highest layers of the base"
STORES = "those layers, and the norm and the pooler above them"


class TopKConfig(MethodConfig):
    """`k`: how many layers, counted from the top."""

    k: PositiveInt = 1


def acts(config: TopKConfig, sites: Sites) -> Sequence[Act]:
    if config.k > sites.depth:
        raise UserError(f"method.k = {config.k}, but {sites.family} has {sites.depth} layers here")
    above = [f"{site.module}." for site in sites.all if site.role in ("norm.final", "pooler")]
    above = [path for path in above if path.removesuffix(".") not in sites.idle]
    chosen = tuple(f"{block}." for block in sites.blocks[-config.k :]) + tuple(above)
    return [Select(name) for name, _ in sites.model.named_parameters() if name.startswith(chosen)]
