"""A search by Optuna: its trials are ordinary runs that share passes, are pruned at rungs, and survive a kill."""

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

import graftlm
from folders import write
from graftlm import UserError
from graftlm.core.comparison import CompareConfig
from graftlm.core.files import read_json
from graftlm.core.reporter import Silent
from graftlm.recipes._search import Trials
from reliability.runs import Killed, Killing
from test_matching import pairs

SPACE = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "method.rank": [2, 4]}


def _options(world: Path, out: Path, **search: Any) -> dict[str, Any]:
    training = {"batch_size": 3, "max_steps": 6, "eval_steps": 1, "metric": "loss", "save_steps": 1}
    own = {"space": SPACE, "trials": 6, "batch": 4, **search}
    shared = {"model": str(world / "model"), "data": str(world / "data"), "methods": ["lora"], "out": str(out)}
    return {**shared, "training": training, "search": own, "together": 4}


def _trials(out: Path) -> dict[str, tuple[float, int, str]]:
    """Each trial's rate, rank, and why it stopped."""
    found = {}
    for folder in (out / "runs").iterdir():
        record = read_json(folder / "run.json", "record")
        config = record["config"]
        found[folder.name] = (config["training"]["learning_rate"], config["method"]["rank"], record["stopped"])
    return found


def test_trials_are_runs_of_the_space_and_are_halved_at_rungs_in_one_pass(world: Path, tmp_path: Path) -> None:
    found = graftlm.compare(**_options(world, tmp_path / "c", pruner="halving"))
    trials = _trials(tmp_path / "c")
    assert len(trials) == len(found.rows) == 6
    assert len({rate for rate, _, _ in trials.values()}) == 6
    assert {rank for _, rank, _ in trials.values()} <= {2, 4}
    assert 0 < sum(stopped.startswith("pruned at step") for *_, stopped in trials.values()) < 6
    plan = read_json(tmp_path / "c/plan.json", "plan")
    assert [len(group["runs"]) for group in plan["groups"]] == [4, 2]
    assert (tmp_path / "c/search.sqlite3").is_file()
    assert (tmp_path / "c/report.html").is_file()


def test_a_search_that_is_killed_goes_on_with_its_trials(world: Path, tmp_path: Path) -> None:
    graftlm.compare(**_options(world, tmp_path / "c"))
    whole = _trials(tmp_path / "c")
    with pytest.raises(Killed):
        graftlm.compare(**_options(world, tmp_path / "k/c"), reporter=Killing(3))
    graftlm.compare(out=str(tmp_path / "k/c"), resume=True)
    assert len(_trials(tmp_path / "k/c")) == 6
    first = [name for name in whole if int(name.split("trial")[1].split("-")[0]) < 4]
    assert {name: whole[name] for name in first} == {name: _trials(tmp_path / "k/c")[name] for name in first}


@pytest.mark.parametrize(
    ("task", "space"),
    [("classification", {"head.pooling": ["first", "mean"]}), ("matching", {"task.temperature": [0.05, 1.0]})],
)
def test_each_trial_is_trained_by_its_own_options_and_stored_with_them(
    task: str, space: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    own = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    training = {"batch_size": 3, "max_steps": 3, "learning_rate": 1e-2}
    changed = {"task": task, "training": training, **({"data": own} if task == "matching" else {})}
    graftlm.compare(**{**_options(world, tmp_path / "c", space=space, trials=4, batch=4), **changed})
    chosen = []
    for folder in (tmp_path / "c/runs").iterdir():
        config = read_json(folder / "run.json", "record")["config"]
        part, _, name = next(iter(space)).partition(".")
        chosen.append(config[part][name])
        alone = graftlm.fit(**{**config, "out": tmp_path / "alone" / folder.name})
        found = read_json(folder / "metrics.json", "metrics")["metrics"]
        assert found == pytest.approx(alone.metrics, abs=1e-5)
        again = graftlm.evaluate(folder, config["data"]["path"], "validation")
        assert again.metrics == pytest.approx(found, abs=1e-5)
    assert set(chosen) == set(next(iter(space.values())))


def _studied(storage: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the one study of a storage."""
    (found,) = optuna.get_all_study_summaries(f"sqlite:///{storage}")
    return optuna.load_study(study_name=found.study_name, storage=f"sqlite:///{storage}").trials


@pytest.mark.parametrize("every", [None, 1])
def test_a_pruner_is_told_of_each_evaluation_once_where_a_killed_trial_makes_it_again(
    every: int | None, world: Path, tmp_path: Path
) -> None:
    told = []
    for name, killing in (("whole", -1), ("killed", 4)):
        out = tmp_path / name
        values = _options(world, out, trials=2, batch=2, pruner="halving", sampler="random")
        values["training"] |= {"save_steps": every}
        try:
            graftlm.compare(**values, reporter=Killing(killing))
        except Killed:
            graftlm.compare(out=str(out), resume=True)
        told.append([trial.intermediate_values for trial in _studied(out / "search.sqlite3")])
    assert told[1] == [pytest.approx(values) for values in told[0]]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_search_over_data_goes_on_until_the_data_is_another(seed: int, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    space = {"data.shots": [2, 3, 4]}
    values = _options(world, tmp_path / "c", space=space, trials=3, batch=3, seed=seed) | {
        "data": str(tmp_path / "data")
    }
    graftlm.compare(**values)
    graftlm.compare(out=str(tmp_path / "c"), resume=True)
    train = tmp_path / "data/train.jsonl"
    train.write_text("".join(reversed(train.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=r"trial0-seed0 was started on another state of the data .* --out"):
        graftlm.compare(out=str(tmp_path / "c"), resume=True)


def test_a_trial_that_is_refused_for_a_combination_fails_and_the_others_go_on(world: Path, tmp_path: Path) -> None:
    space = {"method.dora": [True, False], "method.init": ["gaussian", "pissa"]}
    found = graftlm.compare(**_options(world, tmp_path / "c", space=space, trials=8, sampler="random"))
    states = [trial.state.name for trial in _studied(tmp_path / "c/search.sqlite3")]
    assert {*states} == {"COMPLETE", "FAIL"}
    assert len(found.rows) == states.count("COMPLETE")
    assert {row["state"] for row in found.rows} == {"done"}


def test_searches_in_one_storage_have_studies_of_their_own(world: Path, tmp_path: Path) -> None:
    shared = {"storage": f"sqlite:///{tmp_path}/shared.db", "trials": 2, "batch": 2}
    for out, ranks in (("a/c", [2, 4]), ("b/c", [3, 5]), ("a/c", [1, 6])):
        shutil.rmtree(tmp_path / out, ignore_errors=True)
        graftlm.compare(**_options(world, tmp_path / out, space={"method.rank": ranks}, **shared))
        assert {rank for _, rank, _ in _trials(tmp_path / out).values()} <= {*ranks}
        assert len(_trials(tmp_path / out)) == 2
    (tmp_path / "a/c").rename(tmp_path / "a/d")
    graftlm.compare(out=str(tmp_path / "a/d"), resume=True)
    assert len(_trials(tmp_path / "a/d")) == 2


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"method.rnk": [2, 4]}, 'no option "method.rnk"; did you mean "method.rank"?'),
        ({"method.rank": {"low": 2}}, "search.space method.rank: give a list of choices, or low and high"),
        (
            {"training.learning_rate": {"low": 0.1, "high": 1, "log": "yes"}},
            "search.space training.learning_rate: give a list of choices, or low and high, with log or step",
        ),
        ({"method.rank": [4, 8, 2, 16, 0]}, "option method.rank = 0: input should be greater than 0"),
        ({"method.rank": {"low": 0, "high": 4}}, "option method.rank = 0: input should be greater than 0"),
        ({"training.batch_size": [4, 8, 0]}, "option training.batch_size = 0: input should be greater than 0"),
        ({"method.sites": ["attention.query", "nowhere"]}, 'no site "nowhere"; did you mean'),
        ({"method.rank": []}, "option search.space = {'method.rank': []}: method.rank has nothing to choose from"),
        (
            {"out": ["a", "b"]},
            "option search.space = {'out': ['a', 'b']}: \"out\" cannot be searched; options of method",
        ),
        ({"seed": [1]}, "option search.space = {'seed': [1]}: \"seed\" cannot be searched"),
        ({"method": ["lora"]}, "option search.space = {'method': ['lora']}: \"method\" cannot be searched"),
        ({"method.name": ["lora"]}, "option search.space = {'method.name': ['lora']}: \"method.name\" cannot be"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_written(
    space: Any, said: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        graftlm.compare(**_options(world, tmp_path / "c", space=space))
    assert str(error.value).startswith(said)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:////nowhere/to/be.db"])
def test_a_storage_that_cannot_be_opened_is_refused_before_anything_is_written(
    storage: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        graftlm.compare(**_options(world, tmp_path / "c", storage=storage))
    assert str(error.value).startswith(f"search.storage = {storage} cannot be opened (")
    assert not (tmp_path / "c").exists()


def test_a_search_without_validation_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_bytes((world / "data/train.jsonl").read_bytes())
    with pytest.raises(UserError, match="a search goes by the metric on validation, and the data has no such split"):
        graftlm.compare(**{**_options(world, tmp_path / "c"), "data": str(tmp_path / "data")})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("task", "metric", "better", "worse"),
    [
        ("classification", None, {"loss": 0.9, "accuracy": 0.9}, {"loss": 0.1, "accuracy": 0.1}),
        ("classification", "loss", {"loss": 0.1, "accuracy": 0.1}, {"loss": 0.9, "accuracy": 0.9}),
        ("generation", None, {"loss": 0.1}, {"loss": 0.9}),
        ("regression", "mae", {"loss": 1.0, "mae": 0.1}, {"loss": 1.0, "mae": 0.9}),
    ],
)
def test_a_pruner_stops_the_worse_of_two_trials(
    task: Any, metric: str | None, better: dict[str, float], worse: dict[str, float], tmp_path: Path
) -> None:
    values = {"model": "tiny", "data": "words", "methods": ["lora"], "out": str(tmp_path), "task": task}
    own = {"space": {"method.rank": [2, 4]}, "trials": 4, "batch": 4, "pruner": "median"}
    trials = Trials(CompareConfig.parse({**values, "search": own, "training": {"metric": metric}}), Silent())
    with trials.study(tmp_path) as rounds:
        first, second, third, fourth = next(rounds)
        for name in (first, second):
            trials.watch(name, 1, 1, {key: (better[key] + worse[key]) / 2 for key in better})
            study, trial = trials._trials[name].study, trials._trials[name]
            study.tell(trial, 0.5)
        assert trials.watch(third, 1, 1, better) is None
        assert trials.watch(fourth, 1, 1, worse) == "pruned at step 1"
