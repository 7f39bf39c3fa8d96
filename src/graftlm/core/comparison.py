"""The options of a comparison, and the runs that they stand for."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from graftlm.core.config import Config, merged, overrides
from graftlm.core.errors import UserError
from graftlm.core.settings import SEEDS, DataConfig, FitConfig, HeadConfig, Name, PromptConfig, TrainingConfig

SHORT = {"rank": "r", "variant": "", "reparametrisation": "mlp_"}
LONG = 80  # letters of a method with its options in a run's name
RUNS = "runs"
SEARCHED = ("method", "training", "data", "head", "prompt", "task")


class SearchConfig(Config):
    """A search by Optuna, for each method a study of its own, instead of a product.

    `space`: an option of a run -> a list of choices, or {low, high} with `log` or `step`, as
    {training.learning_rate: {low: 0.0001, high: 0.01, log: true}, method.rank: [4, 8, 16]}. `trials` a method, of which
    `batch` are drawn before any of them is trained, and share passes. `pruner`: "halving" stops trials at rungs, as
    successive halving does. `storage`: an Optuna storage's address; None is a SQLite file in the comparison's folder.
    """

    space: Mapping[str, Sequence[bool | int | float | str] | Mapping[str, Any]] = Field(min_length=1)
    trials: PositiveInt = 16
    batch: PositiveInt = 8
    sampler: Literal["tpe", "random", "quasi-random"] = "tpe"
    pruner: Literal["none", "halving", "median", "hyperband"] = "none"
    storage: str | None = None
    seed: NonNegativeInt = Field(default=0, lt=SEEDS)

    @field_validator("space")
    @classmethod
    def _searchable(cls, space: Mapping[str, Any]) -> Mapping[str, Any]:
        for path, choice in space.items():
            part, _, name = path.partition(".")
            if part not in SEARCHED or not name or path in ("method.name", "task.name"):
                raise ValueError(f'"{path}" cannot be searched; options of {", ".join(SEARCHED)} can, as method.rank')
            if not choice:
                raise ValueError(f"{path} has nothing to choose from; give a list of choices, or low and high")
        return space


class CompareConfig(Config):
    """The product of `methods`, `formulations`, `learning_rates`, `shots` and `seeds`; all else is the same for all.

    `methods`: names or mappings, as FitConfig's `method`; a mapping's `training` is laid on the others' for its runs
    alone, as {name: lora, rank: 4, training: {learning_rate: 0.001}}. `seeds`: a list, or how many from 0 on. An empty
    list of rates or shots takes what `training` and `data` say. `together`: how many runs train in one pass; None lets
    memory and the time of a few steps decide. `search`: values that are looked for; it takes one seed.
    `formulations`: "head" and "prompt", by default the prompt where one is given; `prompt` is theirs.
    """

    model: Name
    task: str | Mapping[str, Any] = "classification"
    data: DataConfig
    methods: tuple[str | Mapping[str, Any], ...] = Field(min_length=1)
    learning_rates: tuple[PositiveFloat, ...] = ()
    shots: tuple[PositiveInt, ...] = ()
    seeds: tuple[Annotated[NonNegativeInt, Field(lt=SEEDS)], ...] = Field(default=(0,), min_length=1)
    formulations: tuple[Literal["head", "prompt"], ...] = ()
    prompt: PromptConfig | None = None
    head: HeadConfig = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    out: Name
    together: PositiveInt | None = None
    search: SearchConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("data"), str):
            return {**values, "data": {"path": values["data"]}}
        return values

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= 1000:
                raise ValueError("a count of seeds is 1 to 1000; name large seeds in a list")
            return tuple(range(value))
        return value

    @model_validator(mode="after")
    def _prompted(self) -> "CompareConfig":
        if "prompt" in self.formulations and self.prompt is None:
            raise ValueError('formulations has "prompt", which needs prompt.template and prompt.verbalizer')
        if self.prompt is not None and self.formulations == ("head",):
            raise ValueError('prompt is given, but formulations has "head" alone; head,prompt would compare them')
        return self

    @property
    def asked(self) -> tuple[str | None, ...]:
        """The formulations as an axis, whose name is in a run's where there are several."""
        return self.formulations or (None,)

    @model_validator(mode="after")
    def _one_seed(self) -> "CompareConfig":
        if self.search and len(self.asked) > 1:
            raise ValueError("a search takes one formulation")
        if self.search and (len(self.seeds) > 1 or self.learning_rates or len(self.shots) > 1):
            raise ValueError("a search takes one seed, and rates and shots from its space alone")
        labels = Counter(map(label, self.methods))
        if self.search and (twice := [name for name, count in labels.items() if count > 1]):
            raise ValueError(f"a search has a study for each method, and {twice[0]} stands twice")
        return self

    def runs(self) -> dict[str, FitConfig]:
        """Each run as `graftlm fit` takes it, by its name; refuses two that are the same."""
        found: dict[str, FitConfig] = {}
        labels = Counter(map(label, self.methods))
        axes = (self.methods, self.asked, self.learning_rates or (None,), self.shots or (None,), self.seeds)
        for method, asked, rate, shots, seed in product(*axes):
            told = rate or (_own_rate(method) if labels[label(method)] > 1 else None)
            name = _name(method, asked if len(self.asked) > 1 else None, told, shots, seed)
            if name in found:
                raise UserError(f"two runs are {name}; name each method, rate, number of shots and seed once")
            changed = {
                "training": {"learning_rate": rate} if rate else {},
                "data": {"shots": shots} if shots else {},
            }
            found[name] = self._run(name, method, seed, changed, asked)
        return found

    def trial(self, method: str | Mapping[str, Any], number: int, values: Mapping[str, Any]) -> tuple[str, FitConfig]:
        """A trial of a search as a run, with its name; `values` are of the space's options."""
        name = f"{_short(label(method))}-trial{number}-seed{self.seeds[0]}"
        changed: dict[str, Any] = {}
        for path, value in values.items():
            changed = merged(changed, overrides([f"{path}={json.dumps(value)}"]))
        shots = {"data": {"shots": self.shots[0]}} if self.shots else {}
        return name, self._run(name, method, self.seeds[0], merged(shots, changed))

    def _run(
        self,
        name: str,
        method: str | Mapping[str, Any],
        seed: int,
        changed: Mapping[str, Any],
        formulation: str | None = None,
    ) -> FitConfig:
        shared = self.model_dump(mode="json", include={"model", "task", "data", "head", "training", "prompt"})
        if len(self.asked) > 1:
            del shared["prompt" if formulation == "head" else "head"]
        own, training = _parted(method)
        own, task = ({"name": each} if isinstance(each, str) else each for each in (own, self.task))
        values = {**shared, "task": task, "method": own, "training": merged(shared["training"], training)}
        return FitConfig.parse(merged({**values, "seed": seed, "out": f"{self.out}/{RUNS}/{name}"}, changed))


def _parted(method: str | Mapping[str, Any]) -> tuple[str | Mapping[str, Any], Mapping[str, Any]]:
    """A method, and what of the training is its own."""
    if isinstance(method, str):
        return method, {}
    for name in get_close_matches("training", map(str, method), cutoff=0.8) if "training" not in method else ():
        raise UserError(f'{method.get("name", "a union")} has "{name}"; did you mean "training"?')
    training = method.get("training", {})
    if not isinstance(training, Mapping):
        raise UserError(f"training of {label({**method, 'training': {}})} is {training!r}; write it as name: value")
    return {name: value for name, value in method.items() if name != "training"}, training


def _own_rate(method: str | Mapping[str, Any]) -> float | None:
    return TrainingConfig.parse(_parted(method)[1], where="training.").learning_rate


def label(method: str | Mapping[str, Any]) -> str:
    """A method and its options in a word: `lora-r4`. A learning rate of its own is no part of it."""
    if isinstance(method, str):
        return method
    own = {name: value for name, value in (method.get("training") or {}).items() if name != "learning_rate"}
    rest = {name: value for name, value in method.items() if name not in ("name", "union", "training")} | own
    parts = method.get("union", ())
    first = "+".join(map(label, parts)) if parts else str(method.get("name", "method"))
    return "-".join([first, *(f"{SHORT.get(name, name)}{_word(value)}" for name, value in rest.items())])


def _word(value: Any) -> str:
    return "".join(_letters(value))


def _letters(value: Any) -> Iterator[str]:
    text = "+".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    return (letter if letter.isalnum() or letter in "+._" else "_" for letter in text)


def _short(text: str) -> str:
    """No longer than a folder's name may well be; what is cut off is told apart by its hash."""
    return text if len(text) <= LONG else f"{text[:LONG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _name(
    method: str | Mapping[str, Any], formulation: str | None, rate: float | None, shots: int | None, seed: int
) -> str:
    words = [_short(label(method)), *([formulation] if formulation else [])]
    words += [f"lr{rate:g}"] if rate else []
    words += [f"shots{shots}"] if shots else []
    return "-".join([*words, f"seed{seed}"])
