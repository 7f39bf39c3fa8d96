"""Llama (Touvron et al., 2023): pre-norm decoder, gated feed-forward, RMSNorm, rotary positions, no biases."""

from graftlm.sites._table import Architecture, Head, Span, Stack

STACK = Stack(
    blocks="layers",
    layer={
        "norm.attention": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "norm.feedforward": "post_attention_layernorm",
        "feedforward.gate": "mlp.gate_proj",
        "feedforward.input": "mlp.up_proj",
        "feedforward.output": "mlp.down_proj",
    },
    model={"embedding": "embed_tokens", "norm.final": "norm"},
    attention="self_attn",
    spans={
        "span.attention": Span(entry="self_attn.q_proj", exit="self_attn.o_proj", residual="input_layernorm"),
        "span.feedforward": Span(entry="mlp.gate_proj", exit="mlp.down_proj", residual="post_attention_layernorm"),
    },
)
ARCHITECTURE = Architecture(stacks={"": STACK}, head=Head(pool="last", classifier="score", bias=False, tagger="score"))
