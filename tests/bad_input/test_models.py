"""Models that cannot be had whole, or that are no text models, are refused in a line; nothing of them is run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bad_input.cases import Call, Case, Change, fit, refused

WORDS = "embeddings.word_embeddings.weight"
CONFIG, WEIGHTS = Path("model/config.json"), Path("model/model.safetensors")
INDEX = Path("model/model.safetensors.index.json")


class Malicious:
    """A pickle that leaves a file behind when it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("pwned"),)


def config(**changes: Any) -> Change:
    return lambda: CONFIG.write_text(json.dumps(json.loads(CONFIG.read_text()) | changes))


def text(path: Path, content: str) -> Change:
    return lambda: path.write_text(content)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed() -> None:
        tensors = load_file(WEIGHTS)
        change(tensors)
        save_file(tensors, WEIGHTS, metadata={"format": "pt"})

    return changed


def cut(path: Path, keep: float) -> Change:
    return lambda: path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def pickled() -> None:
    WEIGHTS.unlink()
    Path("model/pytorch_model.bin").write_bytes(pickle.dumps({"embeddings.word_embeddings.weight": Malicious()}))


def remote_code(**changes: Any) -> Change:
    """A folder whose config asks for classes of its own, and the module that holds them."""
    own = {"auto_map": {name: f"modeling.{name}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}}

    def made() -> None:
        config(**own, **changes)()
        Path("model/modeling.py").write_text("from pathlib import Path\nPath('pwned').touch()\n")

    return made


def sharded(file: str) -> Change:
    def made() -> None:
        names = list(load_file(WEIGHTS))
        WEIGHTS.unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
        INDEX.write_text(json.dumps(index))

    return made


def no_tokenizer() -> None:
    for file in Path("model").glob("tok*"):
        file.unlink()


def fewer_words() -> None:
    config(vocab_size=12)()
    weights(lambda t: t.update({WORDS: t[WORDS][:12].clone()}))()


def header(size: int) -> Change:
    return lambda: WEIGHTS.write_bytes(size.to_bytes(8, "little") + b"{" * 64)


def case(name: str, said: str, change: Change | None = None, **flags: str | None) -> Case:
    return Case(name, fit(**flags), said, change=change)


CASES = [
    case("no such name", 'no model "minilmm" on this machine, and the hub cannot be asked', model="minilmm"),
    case("no such hub name", 'no model "acme/none" on this machine', model="acme/none"),
    case("no such folder", 'no model folder "./modle"; did you mean "model"?', model="./modle"),
    case("a name with a blank", 'no model "my model"', model="my model"),
    case("a file", 'no model folder "model/config.json"', model="model/config.json"),
    case("a folder without a config", "data is a folder without config.json", model="data"),
    case("a config that is no JSON", "model", text(CONFIG, "{")),
    case("a config that is a list", "cannot be loaded", text(CONFIG, "[]")),
    case("a config without a type", "cannot be loaded", text(CONFIG, "{}")),
    case("a config of an unknown type", "cannot be loaded", config(model_type="brt")),
    case("a config of nonsense", "cannot be loaded", config(hidden_size="wide")),
    case("a negative width", "cannot be loaded", config(hidden_size=-16)),
    case("heads that do not divide the width", "cannot be loaded", config(num_attention_heads=3)),
    case("a deep config", "cannot be loaded", text(CONFIG, "[" * 100_000)),
    case("a model of images", "and no texts", config(model_type="vit")),
    case("a model of sound", "and no texts", config(model_type="wav2vec2")),
    case(
        "a decoder that nothing says how to begin",
        'the config of "model" has no decoder_start_token_id',
        text(CONFIG, '{"model_type": "bart", "decoder_start_token_id": null}'),
    ),
    case("truncated safetensors", "cannot be loaded", cut(WEIGHTS, 0.5)),
    case("truncated header", "cannot be loaded", cut(WEIGHTS, 0.01)),
    case("empty safetensors", "cannot be loaded", text(WEIGHTS, "")),
    case("a header without end", "cannot be loaded", header(1 << 62)),
    case("a header of nonsense", "cannot be loaded", header(64)),
    case("no weights", "cannot be loaded", WEIGHTS.unlink),
    case(
        "weights of another shape",
        "embeddings.LayerNorm.bias has shape (16,), and BertModel needs (32,)",
        config(hidden_size=32),
    ),
    case(
        "a tensor of another shape",
        "encoder.layer.0.output.dense.bias has shape (3,), and BertModel needs (16,)",
        weights(lambda t: t.update({"encoder.layer.0.output.dense.bias": torch.ones(3)})),
    ),
    case(
        "weights for fewer layers",
        "lack 16 tensors that BertModel has (first: encoder.layer.2",
        config(num_hidden_layers=3),
    ),
    case("weights of other names", "lack", weights(lambda t: [t.update({f"x.{key}": t.pop(key)}) for key in list(t)])),
    case("a shard that is missing", "cannot be loaded", sharded("model-00001-of-00002.safetensors")),
    case(
        "a shard that is no safetensors",
        'names "pytorch_model.bin", which is no safetensors',
        sharded("pytorch_model.bin"),
    ),
    case(
        "a shard outside the folder",
        'names "../model.safetensors", which is no safetensors file in its folder',
        sharded("../model.safetensors"),
    ),
    case("an index of nonsense", "index.json does not say which file holds which tensor", text(INDEX, "[]")),
    case(
        "an adapter beside the model",
        "model holds an adapter beside the model (adapter_config.json)",
        text(Path("model/adapter_config.json"), "{}"),
    ),
    case("no tokenizer", 'the model "model" has no tokenizer: model holds no tokenizer.json', no_tokenizer),
    case("a broken tokenizer", "has no tokenizer that can be read", text(Path("model/tokenizer.json"), "{")),
    case(
        "a tokenizer of nonsense",
        "has no tokenizer that can be read",
        text(Path("model/tokenizer.json"), '{"model": 3}'),
    ),
    case("fewer words than the tokenizer has", "but the model has 12 words: they do not belong together", fewer_words),
    case(
        "a pickle for safetensors",
        "model/pytorch_model.bin is a pickle, which could run code, and is not read",
        pickled,
    ),
    case("classes of its own", "cannot be loaded", remote_code(model_type="own")),
    Case("a template of no model", "template '{text} {mask}' --model nope --text a", 'no model "nope"'),
    Case("sites of a config of nonsense", "sites model", "cannot be loaded", change=config(num_attention_heads=3)),
    Case(
        "sites of a model of images", "sites model", "takes pixel_values and no texts", change=config(model_type="vit")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_model_is_refused(case: Case, graftlm: Call) -> None:
    refused(case, graftlm)
    assert not Path("pwned").exists()


def test_code_beside_a_model_that_does_not_need_it_is_not_run(graftlm: Call) -> None:
    remote_code()()
    assert graftlm(*fit("--epochs 1").split())[0] == 0
    assert not Path("pwned").exists()


def test_a_model_that_is_a_link_is_read(graftlm: Call) -> None:
    shutil.move("model", "elsewhere")
    Path("model").symlink_to("elsewhere")
    assert graftlm(*fit("--epochs 1").split())[0] == 0
