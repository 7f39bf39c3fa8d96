"""What is stored of a run, and how it comes back: its tensors by name, reparametrisations dropped."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.sites._acts import Act, Branch, Select, Tokens
from graftlm.sites._grouping import place_of


@torch.no_grad()
def kept(acts: Iterable[Act], views: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A run's tensors as they are stored; what a reparametrisation makes is computed once and stands in its place.

    `views` are those that are trained, `tensors` all that the acts have, by `place.name`.
    """
    out = {name: view.detach().clone() for name, view in views.items()}
    for act in acts:
        if isinstance(act, Select):
            continue
        place = place_of(act)
        own = {name: tensors[f"{place}.{name}"] for name in act.params}
        if isinstance(act, Branch):
            made = act.keep(own) if act.keep is not None else None
        elif isinstance(act, Tokens) and act.from_input is not None:
            made = None
        else:
            made = {"values": act.derive({name: value[None] for name, value in own.items()})[0]}
        if made is not None:
            for name in act.params.keys() - set(getattr(act, "stored", ())):
                out.pop(f"{place}.{name}", None)
            out |= {f"{place}.{name}": value.detach().clone() for name, value in made.items()}
    return out


@torch.no_grad()
def fill(run: str, views: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copies stored tensors into a run's; missing, unexpected and mis-shaped ones are errors that name them."""
    missing, unexpected = sorted(views.keys() - tensors.keys()), sorted(tensors.keys() - views.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} (first: {names[0]})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise UserError(f'the tensors for adapter "{run}" do not fit it: {", ".join(parts)}')
    for name, view in views.items():
        if tuple(tensors[name].shape) != tuple(view.shape):
            raise UserError(f"tensor {name} has shape {tuple(tensors[name].shape)}; {tuple(view.shape)} is needed")
    for name, view in views.items():
        view.copy_(tensors[name])
