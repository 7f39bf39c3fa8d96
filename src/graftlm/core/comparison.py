"""The options of a comparison, and the runs that they stand for."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from graftlm.core.config import Config, merged
from graftlm.core.errors import UserError
from graftlm.core.settings import SEEDS, DataConfig, FitConfig, HeadConfig, Name, TrainingConfig

SHORT = {"rank": "r"}
RUNS = "runs"


class CompareConfig(Config):
    """The product of `methods`, `learning_rates`, `shots` and `seeds`; all else is the same for all runs.

    `methods`: names or mappings, as FitConfig's `method`. `seeds`: a list, or how many from 0 on. An empty list of
    rates or shots takes what `training` and `data` say. `together`: the most runs in one pass; None asks the memory.
    """

    model: Name
    task: str | Mapping[str, Any] = "classification"
    data: DataConfig
    methods: tuple[str | Mapping[str, Any], ...] = Field(min_length=1)
    learning_rates: tuple[PositiveFloat, ...] = ()
    shots: tuple[PositiveInt, ...] = ()
    seeds: tuple[Annotated[NonNegativeInt, Field(lt=SEEDS)], ...] = Field(default=(0,), min_length=1)
    head: HeadConfig = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    out: Name
    together: PositiveInt | None = None

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

    def runs(self) -> dict[str, FitConfig]:
        """Each run as `graftlm fit` takes it, by its name; refuses two that are the same."""
        found: dict[str, FitConfig] = {}
        shared = self.model_dump(mode="json", include={"model", "task", "data", "head", "training"})
        axes = (self.methods, self.learning_rates or (None,), self.shots or (None,), self.seeds)
        for method, rate, shots, seed in product(*axes):
            name = _name(method, rate, shots, seed)
            if name in found:
                raise UserError(f"two runs are {name}; name each method, rate, number of shots and seed once")
            own = {"method": method, "seed": seed, "out": f"{self.out}/{RUNS}/{name}"}
            changed = {
                "training": {"learning_rate": rate} if rate else {},
                "data": {"shots": shots} if shots else {},
            }
            found[name] = FitConfig.parse(merged({**shared, **own}, changed))
        return found


def label(method: str | Mapping[str, Any]) -> str:
    """A method and its options in a word: `lora-r4`."""
    if isinstance(method, str):
        return method
    rest = {name: value for name, value in method.items() if name not in ("name", "union")}
    parts = method.get("union", ())
    first = "+".join(map(label, parts)) if parts else str(method.get("name", "method"))
    return "-".join([first, *(f"{SHORT.get(name, name)}{_word(value)}" for name, value in rest.items())])


def _word(value: Any) -> str:
    return "".join(_letters(value))


def _letters(value: Any) -> Iterator[str]:
    text = "+".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    return (letter if letter.isalnum() or letter in "+._" else "_" for letter in text)


def _name(method: str | Mapping[str, Any], rate: float | None, shots: int | None, seed: int) -> str:
    words = [label(method)]
    words += [f"lr{rate:g}"] if rate else []
    words += [f"shots{shots}"] if shots else []
    return "-".join([*words, f"seed{seed}"])
