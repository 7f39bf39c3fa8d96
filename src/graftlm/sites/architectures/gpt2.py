"""GPT-2 (Radford et al., 2019): pre-norm decoder, `Conv1D` layers, query, key and value fused in `c_attn`."""

from graftlm.sites._table import Architecture, Fused, Head, Span, Stack

STACK = Stack(
    blocks="h",
    layer={
        "norm.attention": "ln_1",
        "attention.query": Fused("attn.c_attn", 0),
        "attention.key": Fused("attn.c_attn", 1),
        "attention.value": Fused("attn.c_attn", 2),
        "attention.output": "attn.c_proj",
        "norm.feedforward": "ln_2",
        "feedforward.input": "mlp.c_fc",
        "feedforward.output": "mlp.c_proj",
    },
    model={"embedding": "wte", "embedding.position": "wpe", "norm.final": "ln_f"},
    attention="attn",
    spans={
        "span.attention": Span(entry="attn.c_attn", exit="attn.resid_dropout", residual="ln_1"),
        "span.feedforward": Span(entry="mlp.c_fc", exit="mlp.dropout", residual="ln_2"),
    },
)
ARCHITECTURE = Architecture(
    stacks={"": STACK},
    head=Head(pool="last", classifier="score", bias=False, tagger="classifier", answerer="qa_outputs"),
)
