"""BERT (Devlin et al., 2018): post-norm encoder, one Linear a role."""

from graftlm.sites._table import Architecture, Head, Span, Stack

STACK = Stack(
    blocks="encoder.layer",
    layer={
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "norm.attention": "attention.output.LayerNorm",
        "feedforward.input": "intermediate.dense",
        "feedforward.output": "output.dense",
        "norm.feedforward": "output.LayerNorm",
    },
    model={
        "embedding": "embeddings.word_embeddings",
        "embedding.position": "embeddings.position_embeddings",
        "embedding.type": "embeddings.token_type_embeddings",
        "norm.embedding": "embeddings.LayerNorm",
        "pooler": "pooler.dense",
    },
    attention="attention.self",
    spans={
        "span.attention": Span(
            entry="attention.self.query",
            exit="attention.output.dropout",
            residual="attention.self.query",
            norm="attention.output.LayerNorm",
        ),
        "span.feedforward": Span(
            entry="intermediate.dense",
            exit="output.dropout",
            residual="intermediate.dense",
            norm="output.LayerNorm",
        ),
    },
)
ARCHITECTURE = Architecture(
    stacks={"": STACK},
    head=Head(
        pool="first",
        dense="pooler.dense",
        classifier="classifier",
        bias=True,
        tagger="classifier",
        answerer="qa_outputs",
    ),
    lm_heads=("cls.predictions.decoder",),
)
