"""One job: train many runs, those that can share the base in one pass over it, and leave a folder for each."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm import tasks
from graftlm.checkpoint import load_base
from graftlm.core.comparison import CompareConfig
from graftlm.core.errors import Stopped, UserError
from graftlm.core.files import read_json, write_json, write_text, writing
from graftlm.core.lock import Lock
from graftlm.core.reporter import Reporter, Silent
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._folder import RunFolder
from graftlm.recipes._memory import estimate, free_memory
from graftlm.recipes._origin import origin
from graftlm.recipes._run import Job, Run, casts, jobs, losses_of, read, selects
from graftlm.recipes._saved import save
from graftlm.recipes._signals import Stopper
from graftlm.sites import Sites
from graftlm.tasks import TaskData
from graftlm.training import Halted, Keeping, train

MOST = 32  # runs in one pass where memory would allow more
PLAN, RESULTS = "compare.json", "results.csv"
COLUMNS = ("run", "method", "learning_rate", "shots", "seed", "state", "validation", "test", "trained", "stored")
Row = dict[str, Any]


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
    base = load_base(config.model, head=runs[0].problem.base_head)
    groups = _groups(config, runs, base.sites(), free_memory(accelerator_of(runs[0].config, False).device))
    del base
    _claim(config, out, resume)
    with Lock(out):
        write_json(out / PLAN, config.model_dump(mode="json"))
        _say(groups, runs, reporter)
        stopper = Stopper()
        test = _test(runs[0])
        for group in groups:
            left = [run for run in group if _record(run).get("state") not in ("done", "failed")]
            if left:
                with stopper:
                    _train(left, test, stopper, reporter)
        rows = [_row(run) for run in runs]
        write_text(out / RESULTS, _csv(rows))
    metric = runs[0].problem.module.measures(runs[0].problem)[0]
    reporter.table(f"{out}: {metric}, mean ± sd over seeds", *_table(rows))
    return Comparison(out, metric, rows)


def resumed(out: str | Path) -> CompareConfig:
    """The config of a comparison that was started."""
    values = read_json(Path(out) / PLAN, "comparison")
    if not isinstance(values, dict):
        raise UserError(f"{Path(out) / PLAN} is not a comparison")
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


def _test(run: Run) -> TaskData | None:
    """The test split, if there is one."""
    data = run.config.data
    if "test" not in tasks.locate(data, None).found:
        return None
    return tasks.load(data, run.problem, splits=("test",), labels=run.data.labels)


def _train(runs: Sequence[Run], test: TaskData | None, stopper: Stopper, reporter: Reporter) -> None:
    """Trains runs together, each in its own folder; one that fails is reported, and the others are stored."""
    base = load_base(runs[0].config.model, head=runs[0].problem.base_head)
    accelerator = accelerator_of(runs[0].config, casts(runs, base))
    found = jobs(runs, base, accelerator.device, stopper, reporter)
    with ExitStack() as stack:
        folders, started = {}, {}
        for name, job in found.items():
            run = job.run
            folder = stack.enter_context(
                RunFolder(Path(run.config.out), reporter, run.config.training.keep_checkpoints)
            )
            folder.claim(overwrite=True)
            origins = origin(run.data, base.fingerprint, accelerator.device, job.model.kernels)
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
                save(job, folders[name], outcomes[name], started[name], reporter, lambda job: _tested(job, test))
            except UserError as error:
                if not outcomes[name].failed:
                    raise
                reporter.warn(str(error))


def _tested(job: Job, test: TaskData | None) -> dict[str, Any]:
    if test is None:
        return {}
    encoded = job.model.encode(test.splits["test"], job.run.name, job.max_length)
    size = job.run.config.training.eval_batch_size
    answer = job.model.answer(encoded, job.run.name, size, Silent(), "test")
    return {"test": job.model.metrics(answer, encoded)}


def _record(run: Run) -> Mapping[str, Any]:
    path = Path(run.config.out) / "run.json"
    return read_json(path, "run's record") if path.is_file() else {}


def _row(run: Run) -> Row:
    record, config = _record(run), run.config
    primary = run.problem.module.measures(run.problem)[0]
    path = Path(config.out) / "metrics.json"
    best = read_json(path, "run's metrics")["metrics"] if path.is_file() else {}
    counts = record["parameters"]
    return {
        "run": run.name,
        "method": run.name.rsplit("-seed", 1)[0],
        "learning_rate": config.training.learning_rate,
        "shots": config.data.shots,
        "seed": config.seed,
        "state": record["state"],
        "validation": best.get(primary),
        "test": record.get("test", {}).get(primary),
        "trained": counts["delta"] + counts["head"],
        "stored": counts["kept"],
        "seconds": record["timing"]["train_seconds"],
    }


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, "seconds"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A line a method, rate and number of shots."""
    columns = ["method", "runs", "validation", "test", "trained", "stored", "seconds"]
    names = dict.fromkeys(row["method"] for row in rows)
    lines = [[name, *_line([row for row in rows if row["method"] == name])] for name in names]
    return columns, lines


def _line(rows: Sequence[Row]) -> Iterator[str]:
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
