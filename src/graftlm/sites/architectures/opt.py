"""OPT (Zhang et al., 2022): pre-norm decoder (post-norm in the 350M model) with learned positions.

The position embedding adds an offset of its own to what it is given, and is no site.
"""

from typing import Any

from graftlm.sites._table import Architecture, Head, Span, Stack


def architecture(config: Any) -> Architecture:
    before = config.do_layer_norm_before
    attention = Span(
        entry="self_attn.q_proj",
        exit="self_attn.out_proj",
        residual="self_attn_layer_norm" if before else "self_attn.q_proj",
        norm=None if before else "self_attn_layer_norm",
    )
    feedforward = Span(
        entry="fc1",
        exit="fc2",
        residual="final_layer_norm" if before else "fc1",
        norm=None if before else "final_layer_norm",
    )
    stack = Stack(
        blocks="decoder.layers",
        layer={
            "norm.attention": "self_attn_layer_norm",
            "attention.query": "self_attn.q_proj",
            "attention.key": "self_attn.k_proj",
            "attention.value": "self_attn.v_proj",
            "attention.output": "self_attn.out_proj",
            "norm.feedforward": "final_layer_norm",
            "feedforward.input": "fc1",
            "feedforward.output": "fc2",
        },
        model={"embedding": "decoder.embed_tokens", "norm.final": "decoder.final_layer_norm"},
        attention="self_attn",
        spans={"span.attention": attention, "span.feedforward": feedforward},
    )
    return Architecture(
        stacks={"": stack}, head=Head(pool="last", classifier="score", bias=False, answerer="qa_outputs")
    )
