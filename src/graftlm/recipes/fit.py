"""One job: train one run on one task, and leave its folder; or go on with one that was interrupted."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from graftlm.checkpoint import drop_states, load_base
from graftlm.core.errors import Stopped, UserError
from graftlm.core.files import same_file
from graftlm.core.records import RunRecord
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import FitConfig
from graftlm.kernels import current
from graftlm.recipes._accelerator import accelerator_of
from graftlm.recipes._folder import LEFT, RunFolder, explained, halting
from graftlm.recipes._memory import needed_by, warn_of_memory
from graftlm.recipes._origin import origin, threads
from graftlm.recipes._run import casts, jobs, losses_of, read
from graftlm.recipes._saved import done, save
from graftlm.recipes._signals import Stopper
from graftlm.recipes._team import Team
from graftlm.training import Keeping, Snapshot, train

RUN = "run"


def fit(config: FitConfig, reporter: Reporter | None = None) -> RunRecord:
    """Trains a run and writes its folder: `run.json`, `metrics.json`, `history.jsonl` and `adapter/`.

    Everything that can be wrong with the options is found before anything is written; a UserError names it.
    A signal that stops the run raises `Stopped`, with the run saved for `resume`. In processes that `accelerate
    launch` has started all train the run, and the main one writes.
    """
    team = Team(accelerator_of(config, False))
    reporter = team.heard(reporter or Warned())
    with RunFolder(Path(config.out), reporter, config.training.keep_checkpoints) as folder:
        team.agreed(lambda: _claim(folder, config))
        return _train(config, folder, team, reporter, folder.begin)


def resume(out: str | Path, reporter: Reporter | None = None) -> RunRecord:
    """Goes on with a run from its last checkpoint, and ends as if it had never been left.

    A run that is done is left as it is. A UserError says where the base or the data are no longer the same.
    """
    team = Team(Accelerator())
    reporter = team.heard(reporter or Warned())
    with RunFolder(Path(out), reporter) as folder:
        folder.record = team.agreed(lambda: _reopened(folder))
        config = FitConfig.parse({**folder.record["config"], "out": str(out)})
        folder.keep = config.training.keep_checkpoints
        if folder.record["state"] == "done":
            reporter.line(f"{out} is done")
            return team.agreed(lambda: _done(folder))
        with threads(folder.record["machine"]["threads"]):
            return _train(config, folder, team, reporter, folder.go_on)


def _claim(folder: RunFolder, config: FitConfig) -> None:
    folder.claim(config.overwrite)
    if any(same_file(folder.path / name, Path(config.data.path)) for name in LEFT):
        raise UserError(
            f"the data, {config.data.path}, would be overwritten; copy it to another place, or name another out"
        )


def _reopened(folder: RunFolder) -> Mapping[str, Any]:
    folder.reopen()
    return folder.record


def _done(folder: RunFolder) -> RunRecord:
    drop_states(folder.path, folder.keep)
    return done(folder)


def _train(
    config: FitConfig, folder: RunFolder, team: Team, reporter: Reporter, enter: Callable[[Mapping[str, Any]], None]
) -> RunRecord:
    run = read(RUN, config, reporter)
    if not team.alone and run.problem.module.HEAD == "vectors":
        raise UserError(
            f"a batch of {run.problem.task} cannot be split over processes: its rows are compared; start one"
        )
    base = load_base(config.model, head=run.base_head)
    accelerator = accelerator_of(config, casts([run], base))
    stopper = Stopper()
    current().take(folder.record.get("kernels", {}).get("choices", {}))
    found = jobs([run], base, accelerator.device, team.within_evaluations(stopper), reporter)
    job = found[RUN]
    plan = job.plan
    warn_of_memory(needed_by(job.model, RUN, plan), accelerator.device, reporter)
    origins = origin(run.data, base.fingerprint, accelerator.device, job.model.kernels)
    started = {"config": run.resolved, "seed": config.seed, **origins}

    def entered() -> Snapshot | None:
        enter(started)
        return folder.start

    with stopper, explained(folder):
        at = team.agreed(entered)
        with folder.history() if team.main else nullcontext() as history, halting(folder, stopper):
            plan.record = history.write if history is not None else plan.record
            accelerator.init_trackers("graftlm", config=None)
            keeping = Keeping(
                lambda found: folder.save(found, history) if history is not None else None,
                config.training.save_steps,
                config.training.save_seconds,
                at,
                stopper.asked,
            )
            outcome = train(losses_of(found), {RUN: plan}, accelerator, reporter, keeping)[RUN]
        record = team.agreed(lambda: save(job, folder, outcome, started, reporter))
        accelerator.end_training()  # after it the processes cannot speak to each other
    if stopper.signal is not None:
        raise Stopped(f"{folder.path} was done when it was asked to stop", stopper.signal)
    return record
