"""Tiny models of each kind with a tokenizer of whole words, a mask or a sentinel, and rows to ask them about."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

import tiny

SIGNS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>", "?", ".", ",")
WORDS = (*SIGNS, *(f"w{number}" for number in range(tiny.VOCABULARY - len(SIGNS))))
SENTINEL = "<extra_id_0>"


def words(family: str) -> tuple[str, ...]:
    """The vocabulary of a family, with its padding where its config says."""
    return (WORDS[1], WORDS[0], *WORDS[2:]) if tiny.config_of(family).pad_token_id == 1 else WORDS


def tokenizer(family: str, **more: str) -> PreTrainedTokenizerFast:
    """<s> … </s> around a text of an encoder, as its own; a causal model's has neither, T5's ends with </s>."""
    sentinel = family in ("t5", "t5-gated", "mt5")
    names = [SENTINEL if sentinel and word == "<mask>" else word for word in words(family)]
    made = Tokenizer(kinds.WordLevel({word: place for place, word in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "model_max_length": 32}
    if family not in tiny.CAUSAL:
        start = "" if sentinel else "<s> "
        made.post_processor = processors.TemplateProcessing(
            single=f"{start}$A </s>",
            pair=f"{start}$A </s> $B:1 </s>:1",
            special_tokens=[("<s>", names.index("<s>")), ("</s>", 2)],
        )
        special |= {"extra_special_tokens": [SENTINEL]} if sentinel else {"mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special, **more)


def saved(family: str, folder: Path) -> str:
    """A model with its LM head."""
    tiny.model(family, lm=True).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    tokenizer(family).save_pretrained(folder)
    return str(folder)


def rows(count: int, *, pair: bool = False) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    found: list[dict[str, Any]] = []
    for place in range(count):
        words = [f"w{word}" for word in torch.randint(6, 40, (2 + place % 6,), generator=draw).tolist()]
        own: dict[str, Any] = {"text": " ".join(words), "source": f"w{place % 5}", "label": "ab"[place % 2]}
        found.append(own | ({"text_pair": " ".join(words[:2])} if pair else {}) | {"score": place % 3 / 2})
    return found


def write(path: Path, content: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)
