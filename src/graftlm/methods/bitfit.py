"""BitFit (Ben Zaken et al., 2021, arXiv:2106.10199): only the bias vectors that the model has are trained.

Trained as a change Δb from the pretrained bias, which starts at zero; a bias of every layer, norms and the pooler
included where a task reads them, or of the chosen roles only.
"""

from collections.abc import Sequence
from typing import Literal

from graftlm.core.errors import UserError
from graftlm.methods._deltas import bias_delta
from graftlm.methods._method import MethodConfig
from graftlm.sites import Act, Sites

PAPER = "Ben Zaken et al. 2021"
KIND = "branch"
MERGEABLE = True
LEARNING_RATE = 1e-3
TRAINS = "every bias, or those of chosen roles"
STORES = "the change of each bias, d_out numbers a layer"


class BitfitConfig(MethodConfig):
    """`sites`: "all", or roles; the paper's partial form is attention.query and feedforward.input."""

    sites: tuple[str, ...] | Literal["all"] = "all"


def acts(config: BitfitConfig, sites: Sites) -> Sequence[Act]:
    read = [site for site in sites.biased() if site.module not in sites.idle]
    found = read if config.sites == "all" else sites.select(config.sites)
    without = [site for site in found if not site.has_bias]
    if not found or without:
        where = f"{without[0].module} has none" if without else "none of its layers has one"
        raise UserError(f'bitfit trains biases, and in "{sites.family}" {where}; lora or head would work')
    return [bias_delta(site) for site in found]
