"""Folding a run into the weights of its base, in fp32, fused rows and `Conv1D` included."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from graftlm.core.errors import UserError
from graftlm.sites._acts import Act, Branch, Past, Select, Tokens
from graftlm.sites._grouping import place_of
from graftlm.sites._site import Rows


@torch.no_grad()
def merged_weights(
    run: str, acts: Iterable[Act], tensors: Mapping[str, Tensor], layer: Callable[[str], nn.Module], base: nn.Module
) -> dict[str, Tensor]:
    """The weights that a run's acts change, by parameter name. `layer` gives the frozen layer at a module path.

    Raises UserError where a part of the run is no change of a weight, and where a changed weight is another layer's of
    `base` too, which would change with it.
    """
    out: dict[str, Tensor] = {}
    branches: list[Branch] = []
    for act in acts:
        if isinstance(act, Select):
            out[act.parameter] = tensors[f"base.{act.parameter}"].detach().clone()
        elif isinstance(act, Branch) and act.merge is not None:
            branches.append(act)
        else:
            kind = {Past: "a prefix", Tokens: "a prompt"}.get(type(act), "a nonlinear branch")
            raise UserError(f'adapter "{run}" cannot be merged: {kind} at {place_of(act)} is not a change of a weight')
    for branch in sorted(branches, key=_turn):
        _fold(branch, tensors, layer(branch.site.module), base, out)
    return out


def _turn(act: Branch) -> int:
    """As hosts do it: all of a layer, then parts of it; a changed input reaches every change of the weight."""
    return 2 if act.where == "input" else int(act.site.rows is not None)


def _fold(
    act: Branch, tensors: Mapping[str, Tensor], module: nn.Module, base: nn.Module, out: dict[str, Tensor]
) -> None:
    site, merge = act.site, act.merge
    assert merge is not None
    own: dict[str, Tensor] = {name: tensors[f"{site.name}.{name}"].detach().float() for name in act.params}
    own |= {name: torch.tensor(value) for name, value in act.constants.items()}
    start = tensors.get(f"base.{site.module}.weight", module.weight)  # the run's own, where it trains the weight
    weight = out.setdefault(f"{site.module}.weight", _copied(module.weight))
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias = out.setdefault(f"{site.module}.bias", _copied(bias))
    rows = site.rows
    own["frozen"] = _part(_oriented(_copied(start), module), rows)
    oriented = _oriented(weight, module)
    part = _part(oriented, rows)
    part_bias = bias if bias is None or rows is None else rows.of_outputs(bias)
    new_weight, new_bias = merge(part, part_bias, own)
    if new_weight is not part and (tied := _tied(module, base)):
        raise UserError(f"{site.module} cannot be merged: its weight is tied to {tied[0]}'s; keep the adapter")
    _write(oriented, new_weight, rows)
    if bias is not None and new_bias is not None:
        _write(bias, new_bias, rows)


def _oriented(weight: Tensor, module: nn.Module) -> Tensor:
    """A layer's weight as (d_out d_in)."""
    return weight if weight.dim() == 1 or isinstance(module, nn.Linear) else weight.T


def _part(oriented: Tensor, rows: Rows | None) -> Tensor:
    return oriented if rows is None else rows.of_outputs(oriented.T).T


def _tied(module: nn.Module, base: nn.Module) -> list[str]:
    """The paths of the other layers whose weight is this one's."""
    return [
        path.removesuffix(".inner")
        for path, other in base.named_modules()
        if other is not module and other._parameters.get("weight") is module.weight
    ]


def _copied(tensor: Tensor | nn.Module) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor.detach().float().clone()


def _write(target: Tensor, values: Tensor, rows: Rows | None) -> None:
    """Copies rows (count …) into the part of `target` (d_out …) that they are."""
    if rows is None:
        target.copy_(values)
        return
    split = target.unflatten(0, (rows.groups, rows.width))
    split[:, rows.start : rows.stop] = values.clone().unflatten(0, (rows.groups, rows.stop - rows.start))
