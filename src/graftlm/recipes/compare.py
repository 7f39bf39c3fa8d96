"""One job: train many runs, those that can share the base in one pass over it, and leave a folder for each."""

import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.checkpoint import load_base
from graftlm.core.comparison import CompareConfig
from graftlm.core.errors import UserError
from graftlm.core.files import read_json, sweep, write_json, writing
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.results import results
from graftlm.core.settings import FitConfig
from graftlm.recipes._group import Comparing
from graftlm.recipes._planned import Planned
from graftlm.recipes._run import Run, fields_of, read
from graftlm.recipes._schedule import kept, schedule
from graftlm.recipes._search import Trials
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
    stopper, trials = Stopper(), Trials(config) if config.search else None
    first = _read(trials.sample() if trials else config.runs(), reporter)
    base = load_base(config.model, head=first[0].base_head)
    schedule(first, base, 1 << 62, None)  # what cannot be trained is refused before anything is written
    _claim(config, out, resume)
    with Lock(out) as lock, stopper:
        sweep(out)
        write_json(out / CONFIG, config.model_dump(mode="json"))
        test = test_of(first[0], out, _fields(run.config for run in first))
        own = Comparing(out, lock, test, stopper, reporter)
        plan = Planned(own, config.together, kept(out) if resume else [])
        if trials is None:
            plan.train(first, base)
        else:
            with trials.study(out) as rounds:
                own.watch = trials.watch
                for configs in rounds:
                    plan.train(_read(configs, reporter), base)
    rows = [found.row() for found in results([out])]
    metric = first[0].problem.module.measures(first[0].problem)[0]
    reporter.table(f"{out}: {metric}, mean ± sd over seeds", *_table(rows))
    return Comparison(out, metric, rows)


def resumed(out: str | Path) -> CompareConfig:
    """The config of a comparison that was started."""
    values = read_json(Path(out) / CONFIG, "comparison")
    if not isinstance(values, dict):
        raise UserError(f"{Path(out) / CONFIG} is not a comparison")
    return CompareConfig.parse({**values, "out": str(out)})


def _read(configs: Mapping[str, FitConfig], reporter: Reporter) -> list[Run]:
    """All runs, checked; runs on the same examples share them."""
    loaded: dict[str, TaskData] = {}
    found = []
    fields = _fields(configs.values())
    for name, own in configs.items():
        key = own.data.model_dump_json()
        run = read(name, own, reporter, loaded.get(key), fields)
        loaded[key] = run.data
        found.append(run)
    return found


def _fields(configs: Iterable[FitConfig]) -> list[str]:
    """The fields of all runs' templates."""
    return list(dict.fromkeys(name for config in configs for name in fields_of(config)))


def _claim(config: CompareConfig, out: Path, resume: bool) -> None:
    """Refuses a folder that holds something else than this comparison."""
    if resume:
        before = resumed(out)
        if before.runs() != config.runs() or before.search != config.search:
            raise UserError(f"{out} holds a comparison of other runs; give the same options, or name another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        way_out = f"graftlm compare --resume {shlex.quote(str(out))}"
        raise UserError(f"{out} is not empty; go on with {way_out}, or name another folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


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
