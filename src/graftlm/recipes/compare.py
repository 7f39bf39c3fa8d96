"""One job: train many runs, those that can share the base in one pass over it, and leave a folder for each."""

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.checkpoint import load_base
from graftlm.core.comparison import CompareConfig
from graftlm.core.errors import Unwritable, UserError
from graftlm.core.files import read_json, sweep, write_json, writing
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.results import ENDED, RECORD, results
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._group import Comparing, Training
from graftlm.recipes._memory import free_memory
from graftlm.recipes._run import Run, read
from graftlm.recipes._schedule import Group, keep, kept, schedule, tell
from graftlm.recipes._signals import Stopper
from graftlm.recipes._tested import test_of
from graftlm.tasks import TaskData

CONFIG = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, the metric that it goes by, and a row of results for each run."""

    out: Path
    metric: str
    rows: Sequence[Mapping[str, Any]]


def compare(config: CompareConfig, reporter: Reporter | None = None, *, resume: bool = False) -> Comparison:
    """Trains all runs and writes `compare.json`, `plan.json`, and `runs/NAME`, a run's folder for each.

    With `resume`, runs of the same comparison that have ended are kept, and the others go on. A signal raises
    `Stopped`, with the runs under way saved.
    """
    reporter, out = reporter or Silent(), Path(config.out)
    runs = _read(config, reporter)
    names = [run.name for run in runs]
    base = load_base(config.model)
    free = free_memory(accelerator_of(runs[0].config).device)
    groups = (kept(out, names) if resume else None) or schedule(runs, base, free, config.together)
    del base
    _claim(config, out, resume)
    stopper = Stopper()
    with Lock(out) as lock, stopper:
        sweep(out)
        write_json(out / CONFIG, config.model_dump(mode="json"))
        keep(out, names, groups)
        tell(groups, reporter)
        own = Comparing(out, lock, test_of(runs[0], out), stopper, reporter)
        for place in range(len(groups)):
            _train(place, groups, runs, own)
    rows = [found.row() for found in results([out])]
    metric = runs[0].problem.module.measures(runs[0].problem)[0]
    reporter.table(f"{out}: {metric}, mean ± sd over seeds", *_table(rows))
    return Comparison(out, metric, rows)


def resumed(out: str | Path) -> CompareConfig:
    """The config of a comparison that was started."""
    values = read_json(Path(out) / CONFIG, "comparison")
    if not isinstance(values, dict):
        raise UserError(f"{Path(out) / CONFIG} is not a comparison")
    return CompareConfig.parse({**values, "out": str(out)})


def _read(config: CompareConfig, reporter: Reporter) -> list[Run]:
    """All runs, checked; runs on the same examples share them."""
    loaded: dict[str, TaskData] = {}
    found = []
    for name, own in config.runs().items():
        key = own.data.model_dump_json()
        run = read(name, own, reporter, loaded.get(key))
        loaded[key] = run.data
        found.append(run)
    return found


def _claim(config: CompareConfig, out: Path, resume: bool) -> None:
    """Refuses a folder that holds something else than this comparison."""
    if resume:
        if resumed(out).runs() != config.runs():
            raise UserError(f"{out} holds a comparison of other runs; give the same options, or name another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        way_out = f"graftlm compare --resume {shlex.quote(str(out))}"
        raise UserError(f"{out} is not empty; go on with {way_out}, or name another folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def _train(place: int, groups: list[Group], runs: Sequence[Run], own: Comparing) -> None:
    """Trains what is left of a group, and writes what its first steps have shown into the plan."""
    named = {run.name: run for run in runs}
    left = [named[name] for name in groups[place].runs if _state(named[name]) not in ENDED]
    if not left:
        return
    try:
        training = Training(place, groups[place], left, load_base(left[0].config.model), own)
        groups[place] = group = training.prepare()
        keep(own.out, list(named), groups)
        own.reporter.line(
            f"group {place + 1} of {len(groups)}: {len(left)} runs, {group.together} at once, about "
            f"{group.memory / 1e6:,.0f} MB beside the base, {group.minutes or 0:.1f} minutes in all"
        )
        training.run()
    except UserError as error:
        if len(groups) == 1 or len(left) > 1 or isinstance(error, Unwritable):
            raise
        _give_up(left[0], error, own.reporter)


def _give_up(run: Run, error: UserError, reporter: Reporter) -> None:
    """Keeps why a run that trains alone could not be trained, and lets the others train."""
    path = Path(run.config.out) / RECORD
    record = read_json(path, "run's record") if path.is_file() else {"config": run.resolved, "seed": run.config.seed}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**record, "state": "failed", "stopped": str(error)})
    reporter.warn(f'run "{run.name}" failed: {error}')


def _state(run: Run) -> str:
    path = Path(run.config.out) / RECORD
    return read_json(path, "run's record").get("state", "") if path.is_file() else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A line a method, rate and number of shots."""
    columns = ["method", "runs", "validation", "test", "trained", "stored", "seconds"]
    names = dict.fromkeys(row["method"] for row in rows)
    lines = [[name, *_line([row for row in rows if row["method"] == name])] for name in names]
    return columns, lines


def _line(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    done = [row for row in rows if row["state"] == "done"]
    yield f"{len(done)}/{len(rows)}"
    for split in ("validation", "test"):
        yield _spread([row[split] for row in done if row[split] is not None])
    yield from (f"{rows[0][name]:,}" for name in ("trained", "stored"))
    yield f"{statistics.mean(row['seconds'] for row in rows):.1f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
