"""GPT-NeoX (Black et al., 2022): query, key and value fused and interleaved by head, attention and feed-forward side
by side."""

from typing import Any

from graftlm.sites._table import Architecture, Fused, Head, Span, Stack


def architecture(config: Any) -> Architecture:
    heads = config.num_attention_heads
    stack = Stack(
        blocks="layers",
        layer={
            "norm.attention": "input_layernorm",
            "attention.query": Fused("attention.query_key_value", 0, groups=heads),
            "attention.key": Fused("attention.query_key_value", 1, groups=heads),
            "attention.value": Fused("attention.query_key_value", 2, groups=heads),
            "attention.output": "attention.dense",
            "norm.feedforward": "post_attention_layernorm",
            "feedforward.input": "mlp.dense_h_to_4h",
            "feedforward.output": "mlp.dense_4h_to_h",
        },
        model={"embedding": "embed_in", "norm.final": "final_layer_norm"},
        attention="attention",
        spans={
            "span.attention": Span("attention.query_key_value", "post_attention_dropout", "input_layernorm"),
            "span.feedforward": Span("mlp.dense_h_to_4h", "post_mlp_dropout", "post_attention_layernorm"),
        },
    )
    head = Head(pool="last", classifier="score", bias=False, tagger="classifier", answerer="qa_outputs")
    return Architecture(stacks={"": stack}, head=head, lm_heads=("lm_head", "embed_out"))
