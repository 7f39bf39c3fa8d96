"""One job: say where methods may act in a model, and what one would train, from its config alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graftlm import methods
from graftlm.checkpoint import blank, resolve
from graftlm.sites import Select, Sites


@dataclass
class Description:
    """Rows to show: sites a role, and tensors a site or role of one method."""

    family: str
    notice: str | None
    parameters: int
    columns: list[str]
    rows: list[list[str]]
    trained: list[list[str]] = field(default_factory=list)
    delta: int = 0
    kept: int = 0

    @property
    def share(self) -> float:
        """What is trained, in percent of the base."""
        return 100 * self.delta / self.parameters


def describe(model: str, method: str | None = None, options: Mapping[str, Any] | None = None) -> Description:
    """The sites of a model that lies on the meta device, and with `method` what that trains."""
    base = blank(resolve(model))
    found = Sites(base)
    groups: dict[str, list[Any]] = {}
    for site in found.all:
        groups.setdefault(site.role, []).append(site)
    rows = []
    for role, own in groups.items():
        path = own[0].module if own[0].layer is None else own[0].module.replace(f".{own[0].layer}.", ".N.", 1)
        rows.append(
            [
                role,
                str(len(own)),
                path,
                own[0].kind,
                f"{own[0].d_in} → {own[0].d_out}",
                "yes" if own[0].has_bias else "no",
            ]
        )
    size = sum(parameter.numel() for parameter in base.parameters())
    columns = ["role", "sites", "module", "kind", "width", "bias"]
    made = Description(found.family, found.notice, size, columns, rows)
    if method is not None:
        chosen = methods.parse(method, dict(options or {}))
        made.trained = _trained(found, chosen)
        counts = methods.count(base, chosen)
        made.delta, made.kept = counts["delta"], counts["kept"]
    return made


def _trained(found: Sites, config: methods.MethodConfig) -> list[list[str]]:
    """A row a role and tensor: how many sites have it, its shape, its numbers in all."""
    totals: dict[tuple[str, str, str], list[int]] = {}
    for act in methods.acts(config, found):
        if isinstance(act, Select):
            tensor = found.model.get_parameter(act.parameter)
            role, params = "base", {act.parameter.rsplit(".", 1)[-1]: tuple(tensor.shape)}
        else:
            site = getattr(act, "site", None)
            role = site.role if site is not None else type(act).__name__.lower()
            params = {name: param.shape for name, param in act.params.items()}
        for name, shape in params.items():
            total = totals.setdefault((role, name, " × ".join(map(str, shape))), [0, 0])
            total[0] += 1
            total[1] += torch.Size(shape).numel()
    return [[f"{count} × {role}", name, shape, f"{size:,}"] for (role, name, shape), (count, size) in totals.items()]
