"""A tiny model with a tokenizer, tiny data, and the command called in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from graftlm.cli.main import code

GOOD = ("good", "great", "fine", "sunny", "happy")
BAD = ("bad", "awful", "poor", "rainy", "sad")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "day", "it", "is", "the", ":", ")", *GOOD, *BAD)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def graftlm(capfd: pytest.CaptureFixture[str]) -> Command:
    """Calls the command and gives its exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        found = code([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return found, out, err

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT of two layers and a WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vocabulary = folder.parent / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(vocab=str(vocabulary), model_max_length=32)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with splits of texts whose words give the label away."""
    folder = tmp_path_factory.mktemp("data") / "words"
    folder.mkdir()
    for split, count in (("train", 60), ("validation", 30), ("test", 20)):
        rows = [
            {"id": f"{split}-{place}", "text": f"the day is {words[place % 5]} {words[place % 3]}", "label": label}
            for place in range(count)
            for words, label in [(GOOD, "good") if place % 2 else (BAD, "bad")]
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, model: str, data: str) -> Path:
    """A run that has learned which words are good."""
    out = tmp_path_factory.mktemp("trained") / "run"
    flags = ("--method", "lora", "--epochs", "20", "--batch-size", "8", "--lr", "0.02", "-o", "training.metric=loss")
    assert code(["fit", "--model", model, "--data", data, "--out", str(out), *flags, "--quiet"]) == 0
    return out


@pytest.fixture
def run(trained: Path) -> Path:
    """The trained run, in the working folder under "run"."""
    return Path(shutil.copytree(trained, "run"))
