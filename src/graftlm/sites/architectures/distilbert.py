"""DistilBERT (Sanh et al., 2019): post-norm encoder without token types or pooler."""

from graftlm.sites._table import Architecture, Head, Span, Stack

STACK = Stack(
    blocks="transformer.layer",
    layer={
        "attention.query": "attention.q_lin",
        "attention.key": "attention.k_lin",
        "attention.value": "attention.v_lin",
        "attention.output": "attention.out_lin",
        "norm.attention": "sa_layer_norm",
        "feedforward.input": "ffn.lin1",
        "feedforward.output": "ffn.lin2",
        "norm.feedforward": "output_layer_norm",
    },
    model={
        "embedding": "embeddings.word_embeddings",
        "embedding.position": "embeddings.position_embeddings",
        "norm.embedding": "embeddings.LayerNorm",
    },
    attention="attention",
    spans={
        "span.attention": Span("attention.q_lin", "attention.out_lin", "attention.q_lin", "sa_layer_norm"),
        "span.feedforward": Span("ffn.lin1", "ffn.dropout", "ffn.lin1", "output_layer_norm"),
    },
)
ARCHITECTURE = Architecture(
    stacks={"": STACK},
    head=Head(
        pool="first",
        dense="pre_classifier",
        classifier="classifier",
        bias=True,
        activation="relu",
        fresh=True,
        tagger="classifier",
        answerer="qa_outputs",
    ),
    lm_heads=("vocab_projector",),
)
