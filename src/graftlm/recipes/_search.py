"""A search for values by Optuna: trials as runs, some at a time in one pass, stopped early where a pruner says so."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from graftlm import tasks
from graftlm.core.comparison import CompareConfig, SearchConfig, label
from graftlm.core.errors import UserError
from graftlm.core.files import read_json, write_json
from graftlm.core.reporter import Reporter
from graftlm.core.results import result
from graftlm.core.settings import FitConfig
from graftlm.recipes._run import Run
from graftlm.training import first_line

STORE, STUDY = "search.sqlite3", "study.json"
DRAWS = 4  # of the other options, before a choice is refused


class Trials:
    """The trials of a comparison's studies, one a method. `watch` tells the pruner how a run is doing."""

    def __init__(self, config: CompareConfig, reporter: Reporter):
        assert config.search is not None
        self.reporter = reporter
        self.config, self.search, self.optuna = config, config.search, _optuna()
        given = {"name": config.task} if isinstance(config.task, str) else config.task
        problem = tasks.parse({k: v for k, v in given.items() if k != "name"}, given.get("name", "classification"))
        self.metric, self.lower = config.training.metric, problem.module.LOWER_IS_BETTER
        self.down = (self.metric or problem.module.measures(problem)[0]) in self.lower
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self._storage: Any = None
        self._trials: dict[str, Any] = {}
        self._told: dict[str, int] = {}

    def sample(self) -> dict[str, FitConfig]:
        """One run of each method within the space, to see that all can be trained."""
        trial = self.optuna.create_study(sampler=self.optuna.samplers.RandomSampler(seed=0)).ask()
        return dict(self.config.trial(method, 0, self._values(trial)) for method in self.config.methods)

    def check(self, read: Callable[[FitConfig], object]) -> None:
        """Refuses a space with a choice, or an end, that `read` refuses alone and beside any draw of the others."""
        study = self.optuna.create_study(sampler=self.optuna.samplers.RandomSampler(seed=0))
        draws = [{}, *(self._values(study.ask()) for _ in range(DRAWS))]
        for method, (path, choice) in product(self.config.methods, self.search.space.items()):
            for value in (choice["low"], choice["high"]) if isinstance(choice, Mapping) else choice:
                errors: list[UserError] = []
                for others in draws:
                    error = self._refusal(read, method, {**others, path: value})
                    if error is None:
                        break
                    errors.append(error)
                else:
                    raise errors[0]

    def _refusal(self, read: Callable[[FitConfig], object], method: Any, values: Mapping[str, Any]) -> UserError | None:
        try:
            read(self.config.trial(method, 0, values)[1])
        except UserError as error:
            return error
        return None

    def refuse(self, run: str, error: UserError) -> None:
        """Says that a trial is not trained; it fails, and the search goes on."""
        self.reporter.warn(f'run "{run}" failed: {error}')

    def allowed(self, runs: Sequence[Run], check: Callable[[Run], None]) -> list[Run]:
        """The runs that `check` does not refuse."""
        found = []
        for run in runs:
            try:
                check(run)
            except UserError as error:
                self.refuse(run.name, error)
            else:
                found.append(run)
        return found

    def templates(self) -> list[FitConfig]:
        """A run of each template within the space, whose fields the data is read with."""
        found = self.search.space.get("prompt.template", ())
        choices = found if not isinstance(found, Mapping) else ()
        return [self.config.trial(self.config.methods[0], 0, {"prompt.template": text})[1] for text in choices]

    def open(self) -> None:
        """Opens the storage that was named, so that one that cannot be is refused before anything is written."""
        address = self.search.storage
        try:
            self._storage = self.optuna.storages.get_storage(address) if address else None
        except Exception as error:  # whatever SQLAlchemy or a driver raises
            raise UserError(
                f"search.storage = {address} cannot be opened ({first_line(error)}); write it as sqlite:///FILE, or "
                "leave it out"
            ) from None

    @contextmanager
    def study(self, out: Path) -> Iterator[Iterator[dict[str, FitConfig]]]:
        """Rounds of runs to train, until each method has its trials; what was left running comes first."""
        storage, own = self._storage or f"sqlite:///{(out / STORE).resolve()}", _own_name(out)
        studies = [
            self.optuna.create_study(
                storage=storage,
                study_name=f"{own}-{label(method)}",
                sampler=_sampler(self.optuna, self.search),
                pruner=_pruner(self.optuna, self.search),
                direction="minimize" if self.down else "maximize",
                load_if_exists=True,
            )
            for method in self.config.methods
        ]
        yield self._rounds(studies)

    def watch(self, run: str, step: int, place: int, metrics: Mapping[str, float]) -> str | None:
        """Reports a run's evaluation, `place` of them with it; gives a reason to stop where the pruner finds one.

        Where evaluations hold the loss alone, as those of a task that writes texts, it stands for the metric. Those
        that a run which was left makes again are known.
        """
        trial = self._trials[run]
        if place <= self._told[run]:
            return None
        name = self.metric or next(iter(self._first(metrics)))
        trial.report(metrics[name] if (name in self.lower) == self.down else -metrics[name], place)
        return f"pruned at step {step}" if trial.should_prune() else None

    def _values(self, trial: Any) -> dict[str, Any]:
        return {path: _suggested(trial, path, choice) for path, choice in self.search.space.items()}

    def _first(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if name != "loss"} or dict(metrics)

    def _rounds(self, studies: list[Any]) -> Iterator[dict[str, FitConfig]]:
        running = self.optuna.trial.TrialState.RUNNING
        while True:
            asked: dict[str, tuple[Any, Any]] = {}
            configs: dict[str, FitConfig] = {}
            refused = 0
            for method, study in zip(self.config.methods, studies, strict=True):
                left = [self.optuna.trial.Trial(study, old._trial_id) for old in study.trials if old.state == running]
                missing = min(self.search.batch - len(left), self.search.trials - len(study.trials))
                for trial in [*left, *(study.ask() for _ in range(missing))]:
                    try:
                        name, config = self.config.trial(method, trial.number, self._values(trial))
                    except UserError as error:
                        self.refuse(f"{label(method)}-trial{trial.number}", error)
                        study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
                        refused += 1
                        continue
                    configs[name], asked[name], self._trials[name] = config, (study, trial), trial
                    self._told[name] = max(study.trials[trial.number].intermediate_values, default=0)
            if not configs and not refused:
                return
            yield configs
            for name, (study, trial) in asked.items():
                self._tell(study, trial, configs[name])

    def _tell(self, study: Any, trial: Any, config: FitConfig) -> None:
        states, folder = self.optuna.trial.TrialState, Path(config.out)
        found = result(folder)
        if found is None or not found.done:
            study.tell(trial, state=states.FAIL)
        elif str(found.record["stopped"]).startswith("pruned"):
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, found.record["validation"][self.metric or found.metric])


def _own_name(out: Path) -> str:
    """What a comparison's studies are called, drawn once: one storage may hold those of many folders of one name."""
    path = out / STUDY
    if not path.is_file():
        write_json(path, f"{out.resolve().name}-{secrets.token_hex(4)}")
    return str(read_json(path, "name of a search's studies"))


def _suggested(trial: Any, path: str, choice: Any) -> Any:
    """A value of an option, drawn by Optuna."""
    if not isinstance(choice, Mapping):
        return trial.suggest_categorical(path, list(choice))
    known = {"low", "high"} <= choice.keys() <= {"low", "high", "log", "step"}
    if not known or not isinstance(choice.get("log", False), bool):
        raise UserError(f"search.space {path}: give a list of choices, or low and high, with log or step")
    whole = all(isinstance(choice[name], int) for name in ("low", "high"))
    try:
        return (trial.suggest_int if whole else trial.suggest_float)(path, **choice)
    except (TypeError, ValueError) as error:
        raise UserError(f"search.space {path}: {error}") from None


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("search needs Optuna; install it with: pip install 'graftlm[search]'") from None
    return optuna


def _sampler(optuna: Any, search: SearchConfig) -> Any:
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=search.seed)
    if search.sampler == "quasi-random":
        return optuna.samplers.QMCSampler(seed=search.seed)
    return optuna.samplers.TPESampler(seed=search.seed, constant_liar=True)


def _pruner(optuna: Any, search: SearchConfig) -> Any:
    kinds = {
        "none": optuna.pruners.NopPruner,
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1),
    }
    return kinds[search.pruner]()
