"""Folders with a tiny model and a tokenizer of whole words, rows of words, and a classifier asked text by text."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import tiny

WORDS = ("<pad>", "<s>", "</s>", *(f"w{number}" for number in range(tiny.VOCABULARY - 3)))
TEXTS = ("w3 w4 w5", "w9", "w1 w2 w3 w4 w5 w6 w7")


def saved(model: torch.nn.Module, folder: Path) -> str:
    """A model's folder with a tokenizer of whole words."""
    model.save_pretrained(folder)  # type: ignore[operator]
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", model_max_length=32)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows(count: int) -> list[dict[str, object]]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for place in range(count):
        size = 2 + place % 6
        words = torch.randint(tiny.VOCABULARY - 3, (size,), generator=draw).tolist()
        found.append({"text": " ".join(f"w{word}" for word in words), "label": "ab"[place % 2]})
    return found


def write(path: Path, content: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def alone(model: torch.nn.Module, texts: Sequence[str] = TEXTS) -> Tensor:
    """Logits of a sequence classifier, one text at a time."""
    ids = [[WORDS.index(word) for word in text.split()] for text in texts]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in ids])
