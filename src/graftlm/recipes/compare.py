"""One job: train many runs, those that can share the base in one pass over it, and leave a folder for each."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.checkpoint import load_base
from graftlm.core.comparison import CompareConfig
from graftlm.core.errors import Stopped, UserError
from graftlm.core.files import read_json, write_json, writing
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.results import ENDED, PLAN, RECORD, results
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._folder import RunFolder
from graftlm.recipes._memory import estimate, free_memory
from graftlm.recipes._origin import origin
from graftlm.recipes._run import Job, Run, jobs, losses_of, read, selects
from graftlm.recipes._saved import save
from graftlm.recipes._signals import Stopper
from graftlm.recipes._tested import Test, test_of, tested
from graftlm.sites import Sites
from graftlm.tasks import TaskData
from graftlm.training import Halted, Keeping, train

MOST = 32  # runs in one pass where memory would allow more
CONFIG = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, the metric that it goes by, and a row of results for each run."""

    out: Path
    metric: str
    rows: Sequence[Mapping[str, Any]]


def compare(config: CompareConfig, reporter: Reporter | None = None, *, resume: bool = False) -> Comparison:
    """Trains all runs and writes `compare.json`, `results.csv` and `runs/NAME`, a run's folder for each.

    With `resume`, runs of the same comparison that have ended are kept, and the others train anew.
    """
    reporter, out = reporter or Silent(), Path(config.out)
    runs = _read(config, reporter)
    base = load_base(config.model)
    groups = _groups(config, runs, base.sites(), free_memory(accelerator_of(runs[0].config).device))
    del base
    _claim(config, out, resume)
    with Lock(out):
        write_json(out / CONFIG, config.model_dump(mode="json"))
        write_json(out / PLAN, {"names": [run.name for run in runs]})
        _say(groups, runs, reporter)
        stopper = Stopper()
        test = test_of(runs[0], out)
        for group in groups:
            left = [run for run in group if _state(run) not in ENDED]
            if left:
                with stopper:
                    _train(left, test, stopper, reporter)
    rows = [own.row() for own in results([out])]
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
        raise UserError(f"{out} is not empty; go on with graftlm compare --resume {out}, or name another folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def _groups(config: CompareConfig, runs: Sequence[Run], sites: Sites, free: int) -> list[list[Run]]:
    """Runs that train together, in order; those that train the base, or with its dropout, are alone."""
    alone = [run for run in runs if config.training.base_dropout or selects(run.method, sites)]
    shared = [run for run in runs if run not in alone]
    width = config.together or _fitting(config, runs[0].data, sites, free)
    packed = [shared[first : first + width] for first in range(0, len(shared), width)]
    return [*packed, *([run] for run in alone)]


def _fitting(config: CompareConfig, data: TaskData, sites: Sites, free: int) -> int:
    """How many runs of the longest texts half of the free memory holds."""
    texts = [f"{example.text} {example.text_pair or ''}" for example in data.splits["train"]]
    longest = max(max(2 * len(text.split()), len(text.encode()) // 4) for text in texts) + 2
    length = min(longest, config.training.max_length or sites.positions or longest)
    needed = estimate(config.training, config.training.batch_size * length, len(sites.blocks) or 1, sites.width)
    return max(1, min(MOST, free // 2 // needed))


def _say(groups: Sequence[Sequence[Run]], runs: Sequence[Run], reporter: Reporter) -> None:
    many = "groups" if len(groups) > 1 else "group"
    reporter.line(f"{len(runs)} runs in {len(groups)} {many}; the runs of a group train in one pass over one base")
    for place, group in enumerate(groups, 1):
        reporter.line(f"  {place}: {', '.join(run.name for run in group)}")


def _train(runs: Sequence[Run], test: Test | None, stopper: Stopper, reporter: Reporter) -> None:
    """Trains runs together, each in its own folder; one that fails is reported, and the others are stored."""
    base, accelerator = load_base(runs[0].config.model), accelerator_of(runs[0].config)
    found = jobs(runs, base, accelerator.device, stopper, reporter)
    with ExitStack() as stack:
        folders, started = {}, {}
        for name, job in found.items():
            run = job.run
            folder = stack.enter_context(
                RunFolder(Path(run.config.out), reporter, run.config.training.keep_checkpoints)
            )
            folder.claim(overwrite=True)
            origins = origin(run.data, base.fingerprint, accelerator.device)
            started[name] = {"config": run.resolved, "seed": run.config.seed, **origins}
            folder.begin(started[name])
            job.plan.record = stack.enter_context(folder.history()).write
            folders[name] = folder
        keeping = Keeping(lambda snapshot: None, seconds=float("inf"), stop=stopper.asked)
        plans = {name: job.plan for name, job in found.items()}
        try:
            outcomes = train(losses_of(found), plans, accelerator, reporter, keeping)
        except Halted:
            assert stopper.signal is not None
            out = Path(runs[0].config.out).parent.parent
            raise Stopped(f"stopped; go on with: graftlm compare --resume {out}", stopper.signal) from None
        for name, job in found.items():
            try:
                save(
                    job,
                    folders[name],
                    outcomes[name],
                    started[name],
                    reporter,
                    lambda job: _extra(job, test, folders[job.run.name]),
                )
            except UserError as error:
                if not outcomes[name].failed:
                    raise
                reporter.warn(str(error))


def _state(run: Run) -> str:
    path = Path(run.config.out) / RECORD
    return read_json(path, "run's record").get("state", "") if path.is_file() else ""


def _extra(job: Job, test: Test | None, folder: RunFolder) -> dict[str, Any]:
    """What the report of a comparison needs of a run."""
    return {**_asked(job), **tested(job, test, folder.path)}


def _asked(job: Job) -> dict[str, Any]:
    return {
        "metric": job.model.task.measures(job.model.problem)[0],
        "learning_rate": job.plan.rate,
    }


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
