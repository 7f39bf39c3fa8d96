"""ModernBERT (Warner et al., 2024): pre-norm encoder, query, key and value fused, gate and input fused, rotary
positions, attention local in most layers. The first layer's attention has no norm."""

from typing import Any

from graftlm.sites._table import Architecture, Fused, Head, Span, Stack


def architecture(config: Any) -> Architecture:
    stack = Stack(
        blocks="layers",
        layer={
            "norm.attention": "attn_norm",
            "attention.query": Fused("attn.Wqkv", 0),
            "attention.key": Fused("attn.Wqkv", 1),
            "attention.value": Fused("attn.Wqkv", 2),
            "attention.output": "attn.Wo",
            "norm.feedforward": "mlp_norm",
            "feedforward.gate": Fused("mlp.Wi", 0, 2),
            "feedforward.input": Fused("mlp.Wi", 1, 2),
            "feedforward.output": "mlp.Wo",
        },
        model={
            "embedding": "embeddings.tok_embeddings",
            "norm.embedding": "embeddings.norm",
            "norm.final": "final_norm",
        },
        attention="attn",
        spans={
            "span.attention": Span("attn.Wqkv", "attn.out_drop", "attn_norm"),
            "span.feedforward": Span("mlp.Wi", "mlp.Wo", "mlp_norm"),
        },
    )
    head = Head(
        pool="first" if config.classifier_pooling == "cls" else "mean",
        dense="head.dense",
        classifier="classifier",
        bias=True,
        activation="gelu",
        fresh=True,
        dense_bias=config.classifier_bias,
        norm="head.norm",
    )
    return Architecture(stacks={"": stack}, head=head, lm_heads=("decoder",))
