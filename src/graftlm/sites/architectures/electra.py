"""ELECTRA (Clark et al., 2020): BERT's layers; embeddings may be narrower than the layers, and are projected."""

from dataclasses import replace

from graftlm.sites._table import Head
from graftlm.sites.architectures.bert import ARCHITECTURE as BERT
from graftlm.sites.architectures.bert import STACK as BERT_STACK

STACK = replace(
    BERT_STACK,
    model={
        **{role: path for role, path in BERT_STACK.model.items() if role != "pooler"},
        "embedding.projection": "embeddings_project",
    },
)
ARCHITECTURE = replace(
    BERT,
    stacks={"": STACK},
    head=Head(
        pool="first",
        dense="classifier.dense",
        classifier="classifier.out_proj",
        bias=True,
        activation="gelu",
        fresh=True,
        tagger="classifier",
        answerer="qa_outputs",
    ),
    lm_heads=("generator_lm_head",),
)
