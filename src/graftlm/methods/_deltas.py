"""Additive changes of a layer's own vectors: a bias, and a norm's scale and shift."""

from torch import Tensor

from graftlm.sites import Branch, Site, Tensors, View, zeros


def bias_delta(site: Site) -> Branch:
    """y' = y + Δb, Δb (n d_out)."""
    return Branch(site, {"bias": zeros(site.d_out)}, add_bias, merge=merge_bias)


def norm_delta(site: Site) -> Branch:
    """y' = y + x̂ Δγ + Δβ, with x̂ the normalised input; Δβ only where the norm has a shift."""
    params = {"weight": zeros(site.d_out)} | ({"bias": zeros(site.d_out)} if site.has_bias else {})
    return Branch(site, params, add_scale_and_shift, merge=merge_scale_and_shift)


def add_bias(view: View, p: Tensors) -> Tensor:
    return view.y + p["bias"][:, None]  # n r d_out


def merge_bias(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    assert bias is not None
    return weight, bias + p["bias"]


def add_scale_and_shift(view: View, p: Tensors) -> Tensor:
    y = view.y + view.normalised * p["weight"][:, None]  # n r d
    return y + p["bias"][:, None] if "bias" in p else y


def merge_scale_and_shift(weight: Tensor, bias: Tensor | None, p: Tensors) -> tuple[Tensor, Tensor | None]:
    return weight + p["weight"], bias if bias is None else bias + p["bias"]
