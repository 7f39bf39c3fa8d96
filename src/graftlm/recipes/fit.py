"""One job: train one run on one task, and leave its folder; or go on with one that was interrupted."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftlm.checkpoint import drop_states, load_base
from graftlm.core.errors import Stopped
from graftlm.core.records import RunRecord
from graftlm.core.reporter import Reporter, Silent
from graftlm.core.settings import FitConfig
from graftlm.kernels import current
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._folder import RunFolder, explained, halting
from graftlm.recipes._memory import needed_by, warn_of_memory
from graftlm.recipes._origin import origin, threads
from graftlm.recipes._run import casts, jobs, losses_of, read
from graftlm.recipes._saved import done, save
from graftlm.recipes._signals import Stopper
from graftlm.training import Keeping, train

RUN = "run"


def fit(config: FitConfig, reporter: Reporter | None = None) -> RunRecord:
    """Trains a run and writes its folder: `run.json`, `metrics.json`, `history.jsonl` and `adapter/`.

    Everything that can be wrong with the options is found before anything is written; a UserError names it.
    A signal that stops the run raises `Stopped`, with the run saved for `resume`.
    """
    reporter = reporter or Silent()
    with RunFolder(Path(config.out), reporter, config.training.keep_checkpoints) as folder:
        folder.claim(config.overwrite)
        return _train(config, folder, reporter, folder.begin)


def resume(out: str | Path, reporter: Reporter | None = None) -> RunRecord:
    """Goes on with a run from its last checkpoint, and ends as if it had never been left.

    A run that is done is left as it is. A UserError says where the base or the data are no longer the same.
    """
    reporter = reporter or Silent()
    with RunFolder(Path(out), reporter) as folder:
        folder.reopen()
        config = FitConfig.parse({**folder.record["config"], "out": str(out)})
        folder.keep = config.training.keep_checkpoints
        if folder.record["state"] == "done":
            reporter.line(f"{out} is done")
            drop_states(folder.path, folder.keep)
            return done(folder)
        with threads(folder.record["machine"]["threads"]):
            return _train(config, folder, reporter, folder.go_on)


def _train(
    config: FitConfig, folder: RunFolder, reporter: Reporter, enter: Callable[[Mapping[str, Any]], None]
) -> RunRecord:
    run = read(RUN, config, reporter)
    base = load_base(config.model, head=run.base_head)
    accelerator = accelerator_of(config, casts([run], base))
    stopper = Stopper()
    current().take(folder.record.get("kernels", {}).get("choices", {}))
    found = jobs([run], base, accelerator.device, stopper, reporter)
    job = found[RUN]
    plan = job.plan
    warn_of_memory(needed_by(job.model, RUN, plan), accelerator.device, reporter)
    origins = origin(run.data, base.fingerprint, accelerator.device, job.model.kernels)
    started = {"config": run.resolved, "seed": config.seed, **origins}
    with stopper, explained(folder):
        enter(started)
        with folder.history() as history, halting(folder, stopper):
            plan.record = history.write
            accelerator.init_trackers("graftlm", config=None)
            keeping = Keeping(
                lambda found: folder.save(found, history),
                config.training.save_steps,
                config.training.save_seconds,
                folder.start,
                stopper.asked,
            )
            outcome = train(losses_of(found), {RUN: plan}, accelerator, reporter, keeping)[RUN]
            accelerator.end_training()
        record = save(job, folder, outcome, started, reporter)
    if stopper.signal is not None:
        raise Stopped(f"{folder.path} was done when it was asked to stop", stopper.signal)
    return record
