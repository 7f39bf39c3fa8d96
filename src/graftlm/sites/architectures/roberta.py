"""RoBERTa (Liu et al., 2019): BERT's layers; a token's position starts after the padding token's id."""

from dataclasses import replace
from typing import Any

from graftlm.sites._table import Architecture, Head
from graftlm.sites.architectures.bert import ARCHITECTURE as BERT

HEAD = Head(
    pool="first",
    dense="classifier.dense",
    classifier="classifier.out_proj",
    bias=True,
    fresh=True,
    tagger="classifier",
    answerer="qa_outputs",
)


def architecture(config: Any) -> Architecture:
    return replace(BERT, head=HEAD, lm_heads=("lm_head.decoder",), position_offset=config.pad_token_id + 1)
