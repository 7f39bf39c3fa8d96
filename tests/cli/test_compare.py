"""`graftlm compare`: what many runs in one pass leave is what each leaves alone."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graftlm.checkpoint import Base
from graftlm.recipes import _planned as planning
from graftlm.recipes import compare as comparing
from graftlm.recipes import fit as fitting

Command = Callable[..., tuple[int, str, str]]
SHORT = ("-o", "training.max_steps=6", "-o", "training.batch_size=8")


def _exact(name: str, head: str | None = None) -> Base:
    from graftlm.checkpoint import load_base

    base = load_base(name, head=head)
    base.model.double()
    return base


def test_runs_in_one_pass_end_where_fit_ends_alone(
    graftlm: Command, model: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recipe in (comparing, planning, fitting):
        monkeypatch.setattr(recipe, "load_base", _exact)
    flags = ("--model", model, "--data", data, *SHORT)
    done, out, err = graftlm("compare", *flags, "--methods", "lora,bitfit,prefix", "--seeds", "2", "--out", "c")
    assert done == 0, err
    assert "6 runs in 1 group;" in err
    assert "bitfit" in out
    for method in ("lora", "bitfit", "prefix"):
        graftlm("fit", *flags, "--method", method, "--seed", "1", "--out", method)
        wanted = load_file(f"{method}/adapter/adapter_model.safetensors")
        found = load_file(f"c/runs/{method}-seed1/adapter/adapter_model.safetensors")
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[key], value, atol=1e-9, rtol=0) for key, value in wanted.items()), method


def test_each_run_has_a_folder_that_other_commands_read_and_a_row(graftlm: Command, model: str, data: str) -> None:
    flags = ("--model", model, "--data", data, *SHORT, "--methods", "lora,top-k", "--lr", "0.01", "--out", "c")
    done, _, err = graftlm("compare", *flags)
    assert done == 0, err
    rows = {row["run"]: row for row in csv.DictReader(Path("c/results.csv").read_text().splitlines())}
    assert rows.keys() == {"lora-lr0.01-seed0", "top-k-lr0.01-seed0"}
    for name, row in rows.items():
        assert graftlm("evaluate", f"c/runs/{name}", "--data", data)[0] == 0
        metrics = json.loads(Path(f"c/runs/{name}/metrics.json").read_text())["metrics"]
        assert float(row["test"]) == pytest.approx(metrics["accuracy"])


def test_a_comparison_goes_on_with_the_runs_that_have_not_ended(graftlm: Command, model: str, data: str) -> None:
    flags = ("--model", model, "--data", data, *SHORT, "--methods", "bitfit", "--seeds", "2", "--out", "c")
    assert graftlm("compare", *flags)[0] == 0
    record = Path("c/runs/bitfit-seed1/run.json")
    kept = Path("c/runs/bitfit-seed0/run.json").read_bytes()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "running"}))
    assert graftlm("compare", "--resume", "c")[0] == 0
    assert json.loads(record.read_text())["state"] == "done"
    assert Path("c/runs/bitfit-seed0/run.json").read_bytes() == kept


def test_a_run_that_diverges_is_reported_and_the_others_are_stored(graftlm: Command, model: str, data: str) -> None:
    flags = ("--model", model, "--data", data, *SHORT, "--methods", "lora", "--lr", "1e30,0.01", "--out", "c")
    done, _, err = graftlm("compare", *flags, "-o", "training.clip=0")
    assert done == 0, err
    rows = list(csv.DictReader(Path("c/results.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["failed", "done"]
    assert "stopped" in err


def test_a_folder_that_is_not_empty_and_a_run_named_twice_are_refused(graftlm: Command, model: str, data: str) -> None:
    flags = ("--model", model, "--data", data, "--out", "c")
    done, _, err = graftlm("compare", *flags, "--methods", "lora,lora")
    assert (done, err) == (2, "error: two runs are lora-seed0; name each method, rate, number of shots and seed once\n")
    Path("c").mkdir()
    Path("c/other").touch()
    assert graftlm("compare", *flags, "--methods", "lora")[0] == 2


@pytest.mark.real
@pytest.mark.slow
def test_in_fp32_a_real_comparison_answers_as_fits_alone_do_but_for_one_example(
    graftlm: Command, tmp_path: Path
) -> None:
    """MiniLM on tweets, three epochs of 16 examples a label; predictions of 200 test examples."""
    tweets = Path(__file__).parents[2] / "examples/data/tweets"
    shared = ("--model", "minilm", "-o", "training.epochs=3", "-o", "training.batch_size=8", "-o", "head.pooling=mean")
    data = ("--data", tweets, "-o", "data.limit={test: 200}", "-o", "training.learning_rate=0.003", "--shots", "16")
    methods = ("lora", "bitfit", "adapter", "prefix")
    flags = (*shared, *data, "--methods", ",".join(methods), "--out", "c", "--together", "2")
    assert graftlm("compare", *flags)[0] == 0
    for method in methods:
        assert graftlm("fit", *shared, *data, "--method", method, "--out", method)[0] == 0
        assert graftlm("evaluate", method, "--data", tweets, "--predict")[0] == 0
        alone = [json.loads(line)["label"] for line in Path(f"{method}/predictions.jsonl").read_text().splitlines()]
        lines = Path(f"c/runs/{method}-shots16-seed0/test.jsonl").read_text().splitlines()
        together = [json.loads(line)["answer"] for line in lines]
        assert len(together) == 200
        differing = sum(one != other for one, other in zip(together, alone[:200], strict=True))
        assert differing <= 1, method
