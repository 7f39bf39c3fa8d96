"""ALBERT (Lan et al., 2019): one block, run once for each layer, so a change of a layer is a change of all.

Prefixes and gates are a layer's own, by the number of the call. Transformers has no gradient checkpointing for it.
"""

from typing import Any

from graftlm.core.errors import UserError
from graftlm.sites._table import Architecture, Head, Span, Stack

LAYER = "albert_layers.0"


def architecture(config: Any) -> Architecture:
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    if config.inner_group_num != 1:
        raise UserError(f"an ALBERT with inner_group_num = {config.inner_group_num} is not known here; 1 would work")
    attention = f"{LAYER}.attention"
    stack = Stack(
        blocks="encoder.albert_layer_groups",
        layer={
            "attention.query": f"{attention}.query",
            "attention.key": f"{attention}.key",
            "attention.value": f"{attention}.value",
            "attention.output": f"{attention}.dense",
            "norm.attention": f"{attention}.LayerNorm",
            "feedforward.input": f"{LAYER}.ffn",
            "feedforward.output": f"{LAYER}.ffn_output",
            "norm.feedforward": f"{LAYER}.full_layer_layer_norm",
        },
        model={
            "embedding": "embeddings.word_embeddings",
            "embedding.position": "embeddings.position_embeddings",
            "embedding.type": "embeddings.token_type_embeddings",
            "norm.embedding": "embeddings.LayerNorm",
            "embedding.projection": "encoder.embedding_hidden_mapping_in",
            "pooler": "pooler",
        },
        attention=attention,
        spans={
            "span.attention": Span(
                f"{attention}.query", f"{attention}.output_dropout", f"{attention}.query", f"{attention}.LayerNorm"
            ),
            "span.feedforward": Span(
                f"{LAYER}.ffn", f"{LAYER}.ffn_output", f"{LAYER}.ffn", f"{LAYER}.full_layer_layer_norm"
            ),
        },
        calls=tuple(int(layer / (layers / groups)) for layer in range(layers)),
    )
    return Architecture(
        stacks={"": stack},
        head=Head(
            pool="first", dense="pooler", classifier="classifier", bias=True, tagger="classifier", answerer="qa_outputs"
        ),
        lm_heads=("predictions.decoder",),
        checkpointing=False,
    )
