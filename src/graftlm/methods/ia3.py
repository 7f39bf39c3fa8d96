"""(IA)³ (Liu et al., 2022, arXiv:2205.05638): keys, values and what goes into a feed-forward's output, each times l.

K' = l ⊙ K and V' = l ⊙ V at every attention, cross attention too; y' = W (l ⊙ x) + b at `feedforward.output`. l (d_out,
or d_in there) starts at one, so a fresh run changes nothing, and is stored as it is.
"""

from collections.abc import Sequence

from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig, needs_table
from graftlm.methods._peft_ia3 import WORDS
from graftlm.sites import Act, Branch, Site, Sites, Tensors, View, ones

PAPER = "Liu et al. 2022"
KIND = "branch"
MERGEABLE = True
LEARNING_RATE = 3e-3
TRAINS = "a scale for each key, value and inner feed-forward feature"
PEFT = WORDS
STORES = "a number a feature"
INWARD = ("feedforward.output",)


class Ia3Config(MethodConfig):
    """`sites`: roles, module names or a regex. `inputs`: roles or module names of those that are scaled before they
    run; any other is after.
    """

    sites: tuple[str, ...] | str = ("attention.key", "attention.value", "feedforward.output")
    inputs: tuple[str, ...] = INWARD


def scaled(h: Tensor, scale: Tensor) -> Tensor:
    """h (n rows d), scale (n d) -> (n rows d)."""
    return h * scale[:, None]


def forward(view: View, p: Tensors) -> Tensor:
    return scaled(view.y, p["scale"])


def merge_output(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    return weight * p["scale"][:, None], bias if bias is None else bias * p["scale"]


def merge_input(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    return weight * p["scale"], bias


def acts(config: Ia3Config, sites: Sites) -> Sequence[Act]:
    needs_table(config, sites)
    found = sites.select(config.sites)
    for word in config.inputs:
        if word not in INWARD and not any(_named(word, site) for site in found):
            raise UserError(f'inputs "{word}" is none of the {len(found)} chosen sites (first: {found[0].module})')
    return [_branch(site, any(_named(word, site) for word in config.inputs)) for site in found]


def _named(word: str, site: Site) -> bool:
    return site.means(word) or f".{site.module}".endswith(f".{word}")


def _branch(site: Site, inward: bool) -> Branch:
    if site.kind != "linear":
        raise UserError(f"ia3 acts on linear layers; {site.module} is of kind {site.kind}")
    if inward and site.rows is not None:
        raise UserError(
            f"ia3 scales the input of a whole layer, and {site.name} is a part of {site.module}; name the layer, "
            f'"{site.module.rsplit(".", 1)[-1]}", in sites and inputs, or leave {site.role} out of inputs'
        )
    if inward:
        return Branch(site, {"scale": ones(site.d_in)}, forward, merge=merge_input, where="input")
    return Branch(site, {"scale": ones(site.d_out)}, forward, merge=merge_output)
