"""One job: train many runs, those that can share the base in one pass over it, and leave a folder for each."""

import os
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.checkpoint import Base, load_base
from graftlm.core.comparison import RUNS, CompareConfig
from graftlm.core.errors import UserError
from graftlm.core.files import read_json, sweep, write_json, writing
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter, Silent, Warned
from graftlm.core.results import RECORD, result, results
from graftlm.core.settings import FitConfig
from graftlm.methods import acts
from graftlm.recipes._accelerator import check_trackers
from graftlm.recipes._cluster import Cluster
from graftlm.recipes._group import Comparing, way_on
from graftlm.recipes._origin import check_same, fingerprint
from graftlm.recipes._planned import Here, Planned
from graftlm.recipes._room import room_for
from graftlm.recipes._run import Run, fields_of_all, read, read_all
from graftlm.recipes._schedule import kept, schedule
from graftlm.recipes._search import Trials
from graftlm.recipes._signals import Stopper
from graftlm.recipes._tested import Test, keep_test, test_of

CONFIG = "compare.json"
ANEW = "into another --out"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, the metric that it goes by, and a row of results for each run."""

    out: Path
    metric: str
    rows: Sequence[Mapping[str, Any]]


def compare(
    config: CompareConfig, reporter: Reporter | None = None, *, resume: bool = False, ray: str | None = None
) -> Comparison:
    """Trains all runs and writes `compare.json`, `plan.json`, and `runs/NAME`, a run's folder for each.

    With `resume`, runs of the same comparison that have ended are kept, and the others go on. `ray`: the address of a
    Ray cluster whose machines train the groups. A signal raises `Stopped`, with the runs under way saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("compare trains in one process; start it without a launcher, and spread it with --ray ADDRESS")
    reporter, out = reporter or Warned(), Path(config.out)
    stopper, trials = Stopper(), Trials(config, reporter) if config.search else None
    configs = trials.sample() if trials else config.runs()
    fields = fields_of_all([*configs.values(), *(trials.templates() if trials else ())])
    first = read_all(configs, reporter, fields)
    base = load_base(config.model, head=first[0].base_head)
    sites = base.sites()

    def check(run: Run) -> None:
        check_trackers(run.config.training.trackers)
        room_for(base, sites, acts(run.method, sites), run.name)

    for run in first:
        check(run)
    if trials is not None:
        _searchable(first[0])
        trials.check(lambda own: check(read("trial", own, Silent(), first[0].data, fields)))
        trials.open()
    schedule(first, base, 1 << 62, None)  # what cannot be trained is refused before anything is written
    with ExitStack() as stack:
        cluster = stack.enter_context(_cluster(ray, config)) if ray is not None else None
        _claim(config, out, resume)
        test = test_of(first[0], fields)
        if resume:
            _check_unchanged(out, _ended(out, fields) if trials else first, base, test)
        lock = stack.enter_context(Lock(out))
        stack.enter_context(stopper)
        sweep(out)
        write_json(out / CONFIG, config.model_dump(mode="json"))
        own = Comparing(out, lock, test, stopper, reporter, fields=fields)
        keep_test(own.test, out)
        if cluster is not None:
            cluster.join(own, first[0])
        plan = Planned(own, config.together, kept(out) if resume else [], cluster or Here(own))
        if trials is None:
            plan.train(first, base)
        else:
            with trials.study(out) as rounds:
                own.watch = trials.watch
                for configs in rounds:
                    runs = trials.allowed(read_all(configs, reporter, fields, trials.refuse), check)
                    if runs:
                        plan.train(runs, base)
        stopper.at_once(way_on(out))
        rows = [found.row() for found in results([out])]
        metric = first[0].problem.module.measures(first[0].problem)[0]
        reporter.table(f"{out}: {metric}, mean ± sd over seeds", *_table(rows))
    return Comparison(out, metric, rows)


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """For what follows when all runs have ended: a signal raises `Stopped` at once, which says what goes on."""
    with Stopper() as stopper:
        stopper.at_once(way_on(out))
        yield


def resumed(out: str | Path) -> CompareConfig:
    """The config of a comparison that was started."""
    values = read_json(Path(out) / CONFIG, "comparison")
    if not isinstance(values, dict):
        raise UserError(f"{Path(out) / CONFIG} is not a comparison")
    return CompareConfig.parse({**values, "out": str(out)})


def _cluster(address: str, config: CompareConfig) -> Cluster:
    if config.search is not None and config.search.pruner != "none":
        raise UserError(
            f'search.pruner = "{config.search.pruner}" watches trials in this process, and --ray trains them '
            "elsewhere; leave one of them out"
        )
    return Cluster(address)


def _searchable(run: Run) -> None:
    if not run.data.splits.get("validation"):
        raise UserError(
            "a search goes by the metric on validation, and the data has no such split; cut one file with data.split, "
            "or take data.shots"
        )


def _ended(out: Path, fields: Sequence[str]) -> list[Run]:
    """The trials of a search that have ended, with the data as it is now."""
    found = [result(path.parent) for path in sorted(out.glob(f"{RUNS}/*/{RECORD}"))]
    done = {run.name: FitConfig.parse(run.config) for run in found if run is not None and run.done}
    return read_all(done, Silent(), fields)


def _check_unchanged(out: Path, runs: Sequence[Run], base: Base, test: Test | None) -> None:
    """Refuses to go on where a run that ended was trained or tested on something else than there is now."""
    for run in runs:
        found = result(out / RUNS / run.name)
        if found is None or not found.done:
            continue
        now = {"base": base.fingerprint, "data": fingerprint(run.data)}
        check_same(found.folder, found.record, now, ANEW)
        if tested := found.record.get("test"):
            check_same(found.folder, {**now, "data": tested["data"]}, {**now, "data": test and test.fingerprint}, ANEW)


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
    yield f"{statistics.mean(row['seconds'] for row in done or rows):.1f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
