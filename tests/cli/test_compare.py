"""`graftlm compare`: what many runs in one pass leave is what each leaves alone."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graftlm.checkpoint import Base
from graftlm.core.comparison import CompareConfig
from graftlm.core.errors import UserError
from graftlm.core.reporter import Silent
from graftlm.core.settings import FitConfig
from graftlm.recipes import _planned as planning
from graftlm.recipes import compare as comparing
from graftlm.recipes import fit as fitting
from graftlm.recipes._run import Job, jobs, losses_of, read
from graftlm.recipes._signals import Stopper
from graftlm.training import Losses
from graftlm.training._state import start

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
    assert "6 runs in 1 group, about " in err
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


def test_methods_that_differ_in_their_own_rate_alone_are_runs_of_their_own() -> None:
    rates = [{"name": "lora", "training": {"learning_rate": rate}} for rate in ("1e-3", 0.003)]  # YAML 1.1: a text
    shared = {"model": "m", "data": "d", "out": "c"}
    runs = CompareConfig.parse({**shared, "methods": [*rates, "bitfit"]}).runs()
    assert list(runs) == ["lora-lr0.001-seed0", "lora-lr0.003-seed0", "bitfit-seed0"]
    assert [run.training.learning_rate for run in runs.values()] == [0.001, 0.003, None]
    with pytest.raises(UserError, match=r"two runs are lora-lr0.01-seed0"):
        CompareConfig.parse({**shared, "methods": rates, "learning_rates": [0.01]}).runs()
    misspelt = {**shared, "methods": [{"name": "lora", "traning": {"learning_rate": 0.1}}]}
    with pytest.raises(UserError, match=r'lora has "traning"; did you mean "training"\?'):
        CompareConfig.parse(misspelt).runs()
    search = {"space": {"method.rank": [2, 4]}}
    with pytest.raises(UserError, match="a search has a study for each method, and lora stands twice"):
        CompareConfig.parse({**shared, "methods": rates, "search": search})


REAL = ("lora", "bitfit", "adapter", "prefix")
TWEETS = Path(__file__).parents[2] / "examples/data/tweets"
SHARED = ("--model", "minilm", "-o", "training.epochs=8", "-o", "training.batch_size=8", "-o", "head.pooling=mean")
SHARED += ("--data", str(TWEETS), "-o", "data.limit={test: 200}", "-o", "training.learning_rate=0.003", "--shots", "16")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False], ids=["fp64", "fp32"])
def test_a_real_comparison_ends_where_fits_alone_do(
    exact: bool, graftlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM on tweets, eight epochs of 16 examples a label: tensors, and in fp32 predictions of 200 test examples.

    The prefix has no MLP here: with one, Adam's division by gradients that are all but zero amplifies the last bit
    of fp64 to 0.1 in 30 steps, as it does between two fits alone, one of which starts from weights one bit apart.
    """
    for recipe in (comparing, planning, fitting) if exact else ():
        monkeypatch.setattr(recipe, "load_base", _exact)
    Path("methods.yaml").write_text("methods: [lora, bitfit, adapter, {name: prefix, reparametrisation: none}]")
    assert graftlm("compare", "methods.yaml", *SHARED, "--out", "c", "--together", "4")[0] == 0
    for folder in Path("c/runs").iterdir():
        method = folder.name.split("-")[0]
        more = ("-o", "method.reparametrisation=none") if method == "prefix" else ()
        assert graftlm("fit", *SHARED, "--method", method, *more, "--out", method)[0] == 0
        if exact:
            wanted, found = (load_file(run / "adapter/adapter_model.safetensors") for run in (Path(method), folder))
            assert found.keys() == wanted.keys()
            assert max(float((found[key] - value).abs().max()) for key, value in wanted.items()) < 1e-9, method
            continue
        assert graftlm("evaluate", method, "--data", TWEETS, "--predict")[0] == 0
        alone = [json.loads(line)["label"] for line in Path(f"{method}/predictions.jsonl").read_text().splitlines()]
        together = [json.loads(line)["answer"] for line in (folder / "test.jsonl").read_text().splitlines()]
        assert len(together) == 200
        assert sum(one != other for one, other in zip(together, alone[:200], strict=True)) <= 1, method


@pytest.mark.real
@pytest.mark.slow
def test_at_every_state_of_a_real_training_a_run_has_the_gradients_that_it_has_alone() -> None:
    """In fp64, over four epochs, a prefix with its MLP among them: each step starts from the same tensors."""

    def made(methods: Sequence[str]) -> tuple[dict[str, Job], Losses]:
        values = {
            "model": "minilm",
            "data": {"path": str(TWEETS), "shots": 16},
            "head": {"pooling": "mean"},
            "out": "x",
        }
        training = {"epochs": 8, "batch_size": 8, "learning_rate": 0.003}
        runs = [
            read(name, FitConfig.parse({**values, "training": training, "method": {"name": name}}), Silent())
            for name in methods
        ]
        found = jobs(runs, _exact("minilm"), torch.device("cpu"), Stopper(), Silent())
        return found, losses_of(found)

    group, losses = made(REAL)
    alone = {name: made([name]) for name in REAL}
    states = {name: start(alone[name][0][name].plan) for name in REAL}
    for step in range(24):
        rows = {name: next(state.batches)[0] for name, state in states.items()}
        for name, state in states.items():
            for key, tensor in group[name].plan.parameters.items():
                tensor.data.copy_(state.plan.parameters[key].data)
                tensor.grad = None
            alone[name][1]({name: rows[name]}, {name: step * 1024})[name].mean().backward()
        each = losses(rows, dict.fromkeys(rows, step * 1024))
        torch.stack([loss.mean() for loss in each.values()]).sum().backward()
        for name, state in states.items():
            for key, tensor in state.plan.parameters.items():
                found = group[name].plan.parameters[key].grad
                assert (found is None) == (tensor.grad is None)
                if tensor.grad is not None:
                    torch.testing.assert_close(found, tensor.grad, atol=1e-12, rtol=1e-9)
            state.optimizer.step()
            state.schedule.step()
            state.optimizer.zero_grad()


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_written(
    graftlm: Command, model: str, data: str
) -> None:
    flags = ("--model", model, "--data", data, "--methods", "head,prompt-tuning", "--out", "compared")
    found, _, err = graftlm("compare", *flags)
    assert (found, err.splitlines()[-1]) == (
        2,
        f'error: run "prompt-tuning-seed0" puts 100 virtual tokens before the text, but {model} has 32 positions',
    )
    assert not Path("compared").exists()


def test_a_task_whose_metric_is_better_where_it_is_lower_is_not_ranked_upside_down(
    graftlm: Command, model: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftlm.tasks.classification.LOWER_IS_BETTER", ("loss", "accuracy"))
    flags = ("--methods", "lora", "--lr", "1e-9,0.05", "--out", "c", "-o", "training.epochs=8")
    status, out, err = graftlm("compare", "--model", model, "--data", data, *flags, "--quiet")
    assert status == 0, err
    lines = csv.DictReader(Path("c/results.csv").read_text().splitlines())
    test = {row["run"].removesuffix("-seed0"): float(row["test"]) for row in lines}
    least, most = sorted(test, key=lambda name: test[name])
    assert test[least] < test[most]
    assert f"{least} reaches test accuracy" in out  # of a method's rates the best on validation is judged
    page = Path("c/results.tex").read_text()
    assert page.index(least) < page.index(most)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--resume c --out d", "--resume c and out = d differ; leave --out out"),
        ("--resume c --methods lora", "--model is missing; --resume DIR alone takes its own options"),
        ("--out d --formulation prompt", 'error: formulations has "prompt", which needs prompt.template'),
        ("--out d --calibration pmi", "calibration is of a prompt, which needs a template too"),
        ("--out d -o methods=3", "option methods = 3: input should be a list, as [A, B]"),
        ("--out d -o methods=[3]", "option methods.0 = 3: input should be a text or options as name: value"),
        ("--out d -o methods=[]", "--methods is missing"),
        ("--out d -o seeds=[]", "option seeds = []: 0 are given; at least 1"),
        (
            '--out d -o search={"space":{"method.rank":3}}',
            "option search.space.method.rank = 3: input should be a list, as [A, B] or options as name: value",
        ),
        ("--out d -o training.trackers=[nope]", 'no tracker "nope"; there is aim'),
    ],
)
def test_options_that_do_not_fit_are_refused_and_nothing_is_written(
    flags: str, said: str, graftlm: Command, model: str, data: str
) -> None:
    whole = () if "--resume" in flags else ("--model", model, "--data", data)
    if "methods" not in flags:
        whole = (*whole, "--methods", "lora") if whole else ()
    Path("c").mkdir()
    status, _, err = graftlm("compare", *whole, *flags.split())
    assert status == 2
    assert said in err.splitlines()[-1]
    assert not Path("d").exists()
    assert not list(Path("c").iterdir())
