"""A search by Optuna: its trials are ordinary runs that share passes, are pruned at rungs, and survive a kill."""

from pathlib import Path
from typing import Any

import pytest

import graftlm
from graftlm import UserError
from graftlm.core.files import read_json
from reliability.runs import Killed, Killing

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
    ("space", "said"),
    [
        ({"method.rnk": [2, 4]}, 'no option "method.rnk"; did you mean "method.rank"?'),
        ({"method.rank": {"low": 2}}, "search.space method.rank: give a list of choices, or low and high"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_written(
    space: Any, said: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        graftlm.compare(**_options(world, tmp_path / "c", space=space))
    assert str(error.value).startswith(said)
    assert not (tmp_path / "c").exists()
