"""T5 (Raffel et al., 2020; v1.1 and Flan-T5 with a gated feed-forward): pre-norm encoder and decoder, RMSNorm, no
biases, positions relative and without limit."""

from typing import Any

from graftlm.sites._table import Architecture, Head, Span, Stack


def architecture(config: Any) -> Architecture:
    return Architecture(
        stacks={"encoder": _stack(config, "encoder"), "decoder": _stack(config, "decoder")},
        head=Head(
            pool="last",
            dense="classification_head.dense",
            classifier="classification_head.out_proj",
            bias=True,
            fresh=True,
        ),
        positions=None,
    )


def _stack(config: Any, name: str) -> Stack:
    last = 1 if name == "encoder" else 2
    ff = f"layer.{last}.DenseReluDense"
    layer = _attention("attention", "layer.0", "SelfAttention")
    spans = {"span.attention": _attention_span("layer.0", "SelfAttention")}
    if name == "decoder":
        layer |= _attention("cross", "layer.1", "EncDecAttention")
        spans["span.cross"] = _attention_span("layer.1", "EncDecAttention")
    gate = {"feedforward.gate": f"{ff}.wi_0"} if config.is_gated_act else {}
    first = f"{ff}.wi_0" if gate else f"{ff}.wi"
    layer |= {"norm.feedforward": f"layer.{last}.layer_norm"} | gate
    layer |= {"feedforward.input": f"{ff}.wi_1" if gate else first, "feedforward.output": f"{ff}.wo"}
    spans["span.feedforward"] = Span(first, f"layer.{last}.dropout", f"layer.{last}.layer_norm")
    return Stack(
        blocks=f"{name}.block",
        layer=layer,
        model={"embedding": f"{name}.embed_tokens", "norm.final": f"{name}.final_layer_norm"},
        attention="layer.0.SelfAttention",
        spans=spans,
        cross="layer.1.EncDecAttention" if name == "decoder" else None,
    )


def _attention(kind: str, layer: str, module: str) -> dict[str, Any]:
    return {
        f"norm.{kind}": f"{layer}.layer_norm",
        f"{kind}.query": f"{layer}.{module}.q",
        f"{kind}.key": f"{layer}.{module}.k",
        f"{kind}.value": f"{layer}.{module}.v",
        f"{kind}.output": f"{layer}.{module}.o",
    }


def _attention_span(layer: str, module: str) -> Span:
    return Span(f"{layer}.{module}.q", f"{layer}.dropout", f"{layer}.layer_norm")
