"""BART (Lewis et al., 2020): post-norm encoder and decoder with learned positions, which start at the batch's first
column whatever the padding, and which the model is not told from outside. They are no site."""

from typing import Any

from graftlm.sites._table import Architecture, Head, Span, Stack


def _stack(name: str) -> Stack:
    layer = _attention("attention", "self_attn")
    spans = {"span.attention": _span("self_attn.q_proj", "self_attn.out_proj", "self_attn_layer_norm")}
    if name == "decoder":
        layer |= _attention("cross", "encoder_attn")
        spans["span.cross"] = _span("encoder_attn.q_proj", "encoder_attn.out_proj", "encoder_attn_layer_norm")
    layer |= {"feedforward.input": "fc1", "feedforward.output": "fc2", "norm.feedforward": "final_layer_norm"}
    spans["span.feedforward"] = _span("fc1", "fc2", "final_layer_norm")
    return Stack(
        blocks=f"{name}.layers",
        layer=layer,
        model={"embedding": f"{name}.embed_tokens", "norm.embedding": f"{name}.layernorm_embedding"},
        attention="self_attn",
        spans=spans,
        cross="encoder_attn" if name == "decoder" else None,
        places=f"{name}.embed_positions",
    )


def _attention(kind: str, module: str) -> dict[str, Any]:
    return {
        f"{kind}.query": f"{module}.q_proj",
        f"{kind}.key": f"{module}.k_proj",
        f"{kind}.value": f"{module}.v_proj",
        f"{kind}.output": f"{module}.out_proj",
        f"norm.{kind}": f"{module}_layer_norm",
    }


def _span(entry: str, last: str, norm: str) -> Span:
    return Span(entry=entry, exit=last, residual=entry, norm=norm)


ARCHITECTURE = Architecture(
    stacks={"encoder": _stack("encoder"), "decoder": _stack("decoder")},
    head=Head(
        pool="last", dense="classification_head.dense", classifier="classification_head.out_proj", bias=True, fresh=True
    ),
)
