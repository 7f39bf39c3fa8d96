"""Runs by setting: what its seeds have in common, and the verdict on those that can be compared."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import Any

import numpy as np

from graftlm.core.errors import UserError
from graftlm.core.results import Result
from graftlm.reporting._statistics import Scores, Verdict, judge


@dataclass(frozen=True)
class Setting:
    """The runs of one method, options, rate and number of shots, a run a seed."""

    name: str
    runs: Sequence[Result] = field(repr=False)

    @property
    def done(self) -> list[Result]:
        return [run for run in self.runs if run.done]

    @property
    def first(self) -> Result:
        return self.runs[0]

    @property
    def shots(self) -> int | None:
        return self.first.shots

    @cached_property
    def kind(self) -> str:
        """What it is without its rate and shots, and where it stands if that tells it apart, as text."""
        config = {key: value for key, value in self.first.config.items() if key not in ("seed", "out")}
        config["training"] = {**config["training"], "learning_rate": None}
        config["data"] = {**config["data"], "shots": None}
        return json.dumps([self.first.apart, config], sort_keys=True)

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better."""
        return any(run.lower for run in self.runs)

    def goodness(self, split: str) -> float:
        """The mean of the metric, with its sign turned where less is better; −inf without a value."""
        values = self.values(split)
        return (-mean(values) if self.lower else mean(values)) if values else -math.inf

    def values(self, split: str) -> list[float]:
        """The first metric on a split, a number a seed that has one."""
        found = [run.validation if split == "validation" else run.test for run in self.done]
        return [value for value in found if value is not None]

    def spread(self, split: str) -> tuple[float, float | None] | None:
        """Mean and standard deviation over seeds, which one seed has none of; None without a value."""
        values = self.values(split)
        return (mean(values), stdev(values) if len(values) > 1 else None) if values else None

    @property
    def seconds(self) -> float:
        """Of training, the mean over seeds; of those that failed only where all did."""
        return mean(run.seconds for run in self.done or self.runs)

    @cached_property
    def answers(self) -> list[list[dict[str, Any]]]:
        """The answers of each seed that was tested."""
        return [found for found in (run.answers() for run in self.done) if found]

    def scores(self) -> Scores | None:
        """What the statistics need; None where no seed was tested."""
        values = np.array(self.values("test"))
        if not len(values):
            return None
        rows = [[row["share"] for row in found] for found in self.answers]
        whole = len(rows) == len(values) and all(share is not None for own in rows for share in own)
        return Scores(values, np.array(rows, dtype=float) if whole else None)


def settings(runs: Sequence[Result]) -> list[Setting]:
    """Runs by setting, in their order; refuses runs that were tested on other examples than the rest."""
    _alike(runs)
    names = dict.fromkeys(run.setting for run in runs)
    return [Setting(name, [run for run in runs if run.setting == name]) for name in names]


def _alike(runs: Sequence[Result]) -> None:
    seen: dict[str, Result] = {}
    for run in runs:
        if run.record.get("test"):
            seen.setdefault(run.record["test"]["data"], run)
        if run.metric:
            seen.setdefault(run.metric, run)
    tests = {run.record["test"]["data"]: run for run in runs if run.record.get("test")}
    metrics = {run.metric: run for run in runs if run.metric}
    for kinds, what in ((tests, "other test examples"), (metrics, "another metric")):
        if len(kinds) > 1:
            one, other = list(kinds.values())[:2]
            raise UserError(f"{other.folder} goes by {what} than {one.folder}; report them apart")


def ranked(found: Sequence[Setting]) -> list[Setting]:
    """The best first, by test or else validation; those without a result last."""
    return sorted(found, key=lambda one: (one.goodness("test"), one.goodness("validation")), reverse=True)


def compared(found: Sequence[Setting]) -> list[Setting]:
    """Those that the verdict is about: of the most shots, a kind at the rate that is best on validation.

    Without a validation nothing chooses among its rates, and all are compared.
    """
    tested = [setting for setting in found if setting.values("test")]
    most = max((setting.shots or 0 for setting in tested), default=0)
    best: dict[str, Setting] = {}
    for setting in tested:
        if (setting.shots or 0) != most:
            continue
        kind = setting.kind if setting.values("validation") else setting.name
        other = best.get(kind)
        if other is None or setting.goodness("validation") > other.goodness("validation"):
            best[kind] = setting
    return list(best.values())


def verdict(found: Sequence[Setting]) -> Verdict | None:
    """The verdict on what can be compared; None where nothing was tested."""
    scores = {setting.name: own for setting in compared(found) if (own := setting.scores()) is not None}
    return judge(scores, lower=any(setting.lower for setting in found)) if scores else None


def not_compared(setting: Setting, own: Verdict | None) -> bool:
    """Whether a setting was tested and the verdict is not about it."""
    return own is not None and setting.name not in own.means and bool(setting.values("test"))


def sentence(found: Sequence[Setting], own: Verdict | None) -> str:
    """The verdict in one sentence with its uncertainty."""
    if own is None:
        return "No run was tested, so that nothing can be said of which setting is best."
    tested = [setting for setting in found if setting.values("test")]
    shots = {setting.shots or 0 for setting in tested}
    said, most = _sentence(found, own), max(shots)
    among = [f"at {most} examples a label"] if len(shots) > 1 else []
    if len(own.means) < sum((setting.shots or 0) == most for setting in tested):
        among.append("each method at the rate that is best on validation")
    if not among:
        return said
    return f"{', '.join(among).capitalize()}: {said.replace('No single', 'no single', 1)}"


def _sentence(found: Sequence[Setting], own: Verdict) -> str:
    best = next(setting for setting in found if setting.name == own.best)
    metric, most, above = best.first.metric, *(("lowest", "below") if best.lower else ("highest", "above"))
    low, high = own.intervals[own.best]
    if any(math.isinf(difference.low) for difference in own.differences):
        return (
            f"{own.best} has the {most} test {metric} {own.means[own.best]:.3f}, but how much of that is chance "
            "cannot be told; more seeds would show it."
        )
    if math.isinf(low):
        return f"{own.best} reaches test {metric} {own.means[own.best]:.3f}; there is nothing to compare it with."
    value = f"test {metric} {own.means[own.best]:.3f} (95 % interval {low:.3f} to {high:.3f})"
    if not own.differences:
        return f"{own.best} reaches {value}; there is nothing to compare it with."
    near = [difference for difference in own.differences if not difference.real]
    if not near:
        next_ = own.differences[0]
        return (
            f"{own.best} is best: {value}, {next_.value:.3f} {above} the next, {next_.other} "
            f"(95 % interval {next_.low:.3f} to {next_.high:.3f}, allowing for {_pairs(own.pairs)})."
        )
    names = [difference.other for difference in near]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    if len(names) > 3:
        listed = f"{', '.join(names[:2])} and {len(names) - 2} others"
    next_ = near[0]
    return _signed(
        f"No single winner: {own.best} has the {most} {value}, but {listed} cannot be told from it; it is ahead of "
        f"{next_.other} by {next_.value:.3f} (95 % interval {next_.low:.3f} to {next_.high:.3f}, "
        f"allowing for {_pairs(own.pairs)})."
    )


def _signed(text: str) -> str:
    """With a minus sign before negative numbers."""
    return re.sub(r"(?<= )-(?=\d)", "−", text)


def _pairs(count: int) -> str:
    return f"{count} comparisons" if count > 1 else "one comparison"
