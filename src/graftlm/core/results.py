"""What the runs of comparisons have come to, read from their folders: no torch, so that a report is quick."""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from graftlm.core.errors import UserError
from graftlm.core.files import read_json
from graftlm.core.options import as_yaml

RUNS, PLAN, EXAMPLES, TESTED, RECORD = "runs", "plan.json", "examples.jsonl", "test.jsonl", "run.json"
COLUMNS = ("run", "method", "learning_rate", "shots", "seed", "state", "validation", "test", "trained", "stored")
COLUMNS += ("seconds", "memory_bytes", "steps", "stopped")
ENDED = ("done", "failed")
LONG = 400  # characters of a text that a report shows
AGAIN = "again"  # the folder under which a report's commands train runs anew


class _Config(BaseModel):
    seed: int
    data: dict[str, Any]
    training: dict[str, Any]


class _Timing(BaseModel):
    train_seconds: float = 0


class _Test(BaseModel):
    metrics: dict[str, Any]
    examples: int
    data: str


class _Record(BaseModel):
    """What is read of a run's record."""

    config: _Config
    state: str = ""
    parameters: dict[str, int] = {}
    timing: _Timing = _Timing()
    validation: dict[str, Any] | None = None
    test: _Test | None = None


class _Metrics(BaseModel):
    metrics: dict[str, Any] = {}


class _Plan(BaseModel):
    names: list[str] = []


@dataclass(frozen=True)
class Result:
    """One run: `setting` is what it has in common with its other seeds; `record` is its run.json.

    `validation` and `test` are of the first metric of its task; None where there is none. `repeats` are the folders
    that hold the same run again; `apart` is what tells its setting from others of one name, where there are such.
    """

    folder: Path
    setting: str
    metric: str
    validation: float | None
    test: float | None
    record: Mapping[str, Any]
    repeats: tuple[Path, ...] = ()
    apart: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        return str(self.record.get("state", "running"))

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better."""
        return bool(self.record.get("lower_is_better", False))

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record["config"]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def shots(self) -> int | None:
        return self.config["data"].get("shots")

    @property
    def rate(self) -> float | None:
        return self.record.get("learning_rate") or self.config["training"].get("learning_rate")

    @property
    def trained(self) -> int:
        counts = self.record.get("parameters", {})
        return counts.get("delta", 0) + counts.get("head", 0)

    @property
    def stored(self) -> int:
        return self.record.get("parameters", {}).get("kept", 0)

    @property
    def seconds(self) -> float:
        return self.record.get("timing", {}).get("train_seconds", 0.0)

    @property
    def memory(self) -> int:
        """Bytes that the run was estimated to need beside the base."""
        return self.record.get("estimated_memory_bytes", 0)

    @property
    def command(self) -> str:
        """What trains the run alone, into a folder that it has not got yet."""
        return fit_command({**self.config, "out": f"{AGAIN}/{self.name}"})

    def row(self) -> dict[str, Any]:
        """A line of the table of results."""
        values = (self.name, self.setting, self.rate, self.shots, self.seed, self.state, self.validation, self.test)
        values += (self.trained, self.stored, self.seconds, self.memory, self.record.get("steps", 0))
        return dict(zip(COLUMNS, (*values, self.record.get("stopped", "")), strict=True))

    def history(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "history.jsonl")

    def answers(self) -> list[dict[str, Any]]:
        """The answers on the test split, in its order; none where it was not tested."""
        path, found = self.folder / TESTED, read_lines(self.folder / TESTED)
        test = self.record.get("test")
        count = test["examples"] if test else len(found)
        if len(found) != count:
            raise UserError(f"{path} has {len(found)} answers to the {count} test examples of {RECORD}; train it again")
        if any("answer" not in row or "share" not in row for row in found):
            raise UserError(f"{path} has a line without an answer and its share; train it again")
        return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines of objects, none where there is no file."""
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise UserError(f"{path} is not JSON lines: {error}") from None
    if any(not isinstance(row, dict) for row in rows):
        raise UserError(f"{path} has a line that is no JSON object")
    return rows


def result(folder: Path, setting: str | None = None) -> Result | None:
    """A run's folder; None where none was started."""
    path = folder / RECORD
    if not path.is_file():
        return None
    record = read_json(path, "run's record")
    _shaped(record, _Record, path)
    other = folder / "metrics.json"
    metrics = read_json(other, "run's metrics") if other.is_file() else {}
    _shaped(metrics, _Metrics, other)
    test = (record.get("test") or {}).get("metrics", {})
    metric = record.get("metric") or metrics.get("primary", "")
    best = record.get("validation") or (metrics.get("metrics", {}) if metrics.get("split") == "validation" else {})
    name = setting or folder.name.rsplit("-seed", 1)[0]
    validated, tested = best.get(metric), test.get(metric)
    for value in (validated, tested):
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"{path} has {metric} = {value!r}, which is no number")
    return Result(folder, name, metric, validated, tested, record)


def _shaped(values: Any, shape: type[BaseModel], path: Path) -> None:
    """Refuses a file whose values are not of the kinds that are read here; what else it has is not looked at."""
    try:
        shape.model_validate(values, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path} is not what a run leaves: {where}: {first['msg'].lower()}") from None


def results(folders: Sequence[Path]) -> list[Result]:
    """The runs of comparisons' folders and of single runs', each once.

    Settings of one name that differ get as much of their folders' paths as tells them apart.
    """
    found = [own for folder in folders for own in _of(folder)]
    if not found:
        raise UserError(f"no runs in {', '.join(map(str, folders))}; report takes the folders of comparisons or runs")
    homes = Counter(run.folder.resolve() for run in found)
    if again := [run.folder for run in found if homes[run.folder.resolve()] > 1]:
        raise UserError(f"run {again[0]} stands in the folders twice; name each comparison or run once")
    found = _once(found)
    twice = _ambiguous(found)
    homes = _ends({_home(run) for run in found if run.setting in twice})
    found = [_apart(run, homes[_home(run)], run.setting) if run.setting in twice else run for run in found]
    alone = _ambiguous(found)  # single runs that stand side by side
    names = _ends({run.folder.resolve() for run in found if run.setting in alone})
    return [_apart(run, names[run.folder.resolve()]) if run.setting in alone else run for run in found]


def _apart(run: Result, by: str, *name: str) -> Result:
    return replace(run, apart=by, setting="/".join((by, *name)))


def _once(found: Sequence[Result]) -> list[Result]:
    """Of the runs of one name, config, base and data that stand in several folders the first that is done."""
    same: dict[str, list[Result]] = {}
    for run in found:
        what = (run.setting, _config(run, "out"), run.record.get("base"), run.record.get("data"))
        same.setdefault(json.dumps(what), []).append(run)
    kept = [(max(runs, key=lambda run: run.done), runs) for runs in same.values()]
    return [replace(one, repeats=tuple(run.folder for run in runs if run is not one)) for one, runs in kept]


def _of(folder: Path) -> list[Result]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; report takes the folders of comparisons or runs")
    inside = sorted(folder.glob(f"{RUNS}/*/{RECORD}"))
    order = planned(folder)
    found = [result(path.parent) for path in inside] if inside else [result(folder)]
    known = [run for run in found if run is not None]
    return sorted(known, key=lambda run: order.index(run.name) if run.name in order else len(order))


def planned(folder: Path) -> list[str]:
    """The names of a comparison's runs in its own order."""
    path = folder / PLAN
    plan = read_json(path, "plan of a comparison") if path.is_file() else {}
    _shaped(plan, _Plan, path)
    return list(plan.get("names", ()))


def absent(folder: Path) -> list[str]:
    """The runs that a comparison planned and that its folder has nothing of."""
    return [name for name in planned(folder) if not (folder / RUNS / name / RECORD).is_file()]


def _ambiguous(found: Sequence[Result]) -> set[str]:
    """Settings of one name that stand twice with one seed, or that differ in more than seed and folder."""
    seen: dict[str, str] = {}
    pairs: set[tuple[str, int]] = set()
    twice: set[str] = set()
    for run in found:
        text = json.dumps(_config(run, "seed", "out"))
        if seen.setdefault(run.setting, text) != text or (run.setting, run.seed) in pairs:
            twice.add(run.setting)
        pairs.add((run.setting, run.seed))
    return twice


def _config(run: Result, *but: str) -> dict[str, Any]:
    return {key: run.config[key] for key in sorted(run.config) if key not in but}


def _home(run: Result) -> Path:
    """The folder of its comparison, or the one that a single run stands in."""
    parent = run.folder.resolve().parent
    return parent.parent if parent.name == RUNS else parent


def _ends(paths: Collection[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other has."""

    def end(path: Path) -> str:
        sizes = range(1, len(path.parts) + 1)
        size = next(n for n in sizes if sum(other.parts[-n:] == path.parts[-n:] for other in paths) == 1)
        return str(Path(*path.parts[-size:]))

    return {path: end(path) for path in paths}


def fit_command(config: Mapping[str, Any]) -> str:
    """`graftlm fit` with all that differs from its defaults."""
    from graftlm.core.settings import DataConfig, FitConfig, HeadConfig, TrainingConfig

    full = FitConfig.parse(config)
    words = ["graftlm", "fit", "--model", full.model, "--data", full.data.path, "--seed", str(full.seed)]
    words += ["--out", full.out, "--method", str(full.method["name"])]
    options = {f"method.{name}": value for name, value in full.method.items() if name != "name"}
    if dict(full.task) != {"name": "classification"}:
        words += ["--task", str(full.task["name"])]
        options |= {f"task.{name}": value for name, value in full.task.items() if name != "name"}
    if full.prompt is not None:
        from graftlm.core.settings import PromptConfig

        needed = full.prompt.model_dump(mode="json")
        default = PromptConfig(template="", verbalizer={"": ""}).model_dump(mode="json")
        options |= {f"prompt.{name}": value for name, value in needed.items() if value != default[name]}
    plain = {"data": DataConfig(path=full.data.path), "head": HeadConfig(), "training": TrainingConfig()}
    for part, default in plain.items():
        given = getattr(full, part)
        for name, value in given.model_dump(mode="json").items():
            if value != default.model_dump(mode="json")[name]:
                options[f"{part}.{name}"] = value
    for name, value in options.items():
        words += ["-o", f"{name}={as_yaml(value)}"]
    return shlex.join(words)
