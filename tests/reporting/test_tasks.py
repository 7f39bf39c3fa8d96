"""Any task can be compared, and what its examples add up to is its first metric, which is what is resampled."""

from pathlib import Path

import pytest

import graftlm
import tiny
from folders import saved, write
from graftlm.core.files import read_json
from graftlm.core.results import results
from graftlm.reporting._settings import settings
from test_task_families import ROWS

SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}


@pytest.mark.parametrize("task", ROWS)
def test_the_shares_of_a_tasks_examples_add_up_to_its_metric(task: str, tmp_path: Path) -> None:
    model, split = saved(tiny.model("bert"), tmp_path / "base"), {"train": 0.4, "validation": 0.2, "test": 0.4}
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[task](40)), "split": split}
    methods = ["head", {"name": "lora", "rank": 2}]
    graftlm.compare(model=model, task=task, data=data, methods=methods, training=SHORT, out=str(tmp_path / "c"))
    for run in results([tmp_path / "c"]):
        test = read_json(run.folder / "run.json", "record")["test"]
        shares = [row["share"] for row in run.answers()]
        assert len(shares) == test["examples"] == 16
        assert run.test == test["metrics"][run.metric]
        if task in ("ordinal", "spelling"):  # no fraction of two sums: the uncertainty is that over seeds
            assert shares == [None] * 16
            continue
        above, below = (sum(share[side] for share in shares) for side in (0, 1))
        assert (above / below if below else 0.0) == pytest.approx(run.test, abs=1e-9)
    assert all(setting.scores() is not None for setting in settings(results([tmp_path / "c"])))
    assert (tmp_path / "c/report.html").is_file()
