"""Which runs of a comparison train together, and in what order: the plan, as it is printed and kept."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graftlm import methods
from graftlm.checkpoint import Base
from graftlm.core.files import read_json, write_json
from graftlm.core.reporter import Reporter
from graftlm.core.results import PLAN
from graftlm.recipes._memory import A_WEIGHT, estimate
from graftlm.recipes._run import Run, selects
from graftlm.sites import Sites, mixed

MOST = 64  # runs in one pass where memory would allow more
MOST_BESIDE = 128  # runs whose weights lie beside one base


@dataclass(frozen=True)
class Group:
    """Runs that share one base, in the order in which they begin. `most`: as many at once as memory holds.

    `memory`: bytes that those are estimated to need beside the base. `together` and `minutes` are known once a few
    steps of the group, or of one of its kind, have been timed.
    """

    runs: Sequence[str]
    most: int
    memory: int
    together: int | None = None
    minutes: float | None = None


def schedule(runs: Sequence[Run], base: Base, free: int, together: int | None, places: int = 1) -> list[Group]:
    """Groups of runs that can share the base and the head's options; those that train it, or with its dropout, are
    alone.

    Runs that could be one group are dealt out to as many as there are `places` to train them at.
    """
    sites = base.sites()
    alone = [run for run in runs if _alone(run, sites)]
    groups: list[Group] = []
    shared: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        training = run.config.training
        if run not in alone:
            key = run.base_head, run.config.head, training.precision, training.gradient_checkpointing, training.trackers
            shared[key].append(run)
    for own in shared.values():
        ordered = sorted(own, key=lambda run: -tokens(run, sites))  # alike in length, so that padding stays small
        for dealt in (ordered[place::places] for place in range(min(places, len(ordered)))):
            groups += [_group(part, base, free, together) for part in _beside(dealt, base, free)]
    return groups + [Group([run.name], 1, _memory(run, base)) for run in alone]


def kind(run: Run, sites: Sites) -> tuple[Any, ...]:
    """What runs have in common whose steps take the same time a token."""
    training = run.config.training
    own = (run.method.method, training.base_dropout) if _alone(run, sites) else ()
    return training.precision, training.gradient_checkpointing, *own


def batches(run: Run, tested: int, steps: int | None = None) -> float:
    """About how many training batches' time a run takes; a batch of evaluation or of the test takes a third of one."""
    training, count = run.config.training, len(run.data.splits["train"])
    passes = math.ceil(count / training.batch_size)
    an_epoch = max(1, math.ceil(passes / training.accumulation))
    steps = steps or training.max_steps or max(1, round(training.epochs * an_epoch))
    evaluations = math.ceil(steps / (training.eval_steps or an_epoch))
    watched = evaluations * len(run.data.splits.get("validation", ())) + tested
    return steps * passes / an_epoch + watched / training.batch_size / 3


def like(group: Group, timed: Group, runs: Sequence[Run], others: Sequence[Run], base: Base, tested: int) -> Group:
    """A group with the numbers that a timed one of its kind, of the runs `others`, has shown."""
    together = group.together or min(group.most, timed.together or 1, len(runs))
    needs = sorted((_memory(run, base) for run in runs), reverse=True)
    own, theirs = (sum(batches(run, tested) * tokens(run, base.sites()) for run in part) for part in (runs, others))
    minutes = None if timed.minutes is None else timed.minutes * own / theirs
    return replace(group, together=together, memory=sum(needs[:together]), minutes=minutes)


def _alone(run: Run, sites: Sites) -> bool:
    """Whether a run cannot share the base, or a step over it, with others."""
    own = methods.acts(run.method, sites)
    return run.config.training.base_dropout or selects(run.method, sites) or mixed(sites, own) is not None


def tokens(run: Run, sites: Sites) -> int:
    """About how many tokens the longest batch of a run has, virtual ones included."""
    texts = [f"{example.text} {example.text_pair or ''}" for example in run.data.splits["train"]]
    longest = max((max(2 * len(text.split()), len(text.encode()) // 4) for text in texts), default=1) + 2
    limit = run.config.training.max_length or sites.positions or longest
    virtual = sum(getattr(act, "length", 0) for act in methods.acts(run.method, sites))
    return run.config.training.batch_size * (min(longest, limit) + virtual)


def _memory(run: Run, base: Base) -> int:
    sites = base.sites()
    passing = estimate(run.config.training, tokens(run, sites), len(sites.blocks) or 1, sites.width)
    return passing + _weights(run, base)


def _weights(run: Run, base: Base) -> int:
    return A_WEIGHT * methods.count(base.model, run.method)["delta"]


def _beside(runs: Sequence[Run], base: Base, free: int) -> list[list[Run]]:
    """Runs whose weights fit beside the base at the same time, in a quarter of what is free."""
    parts: list[list[Run]] = [[]]
    room = free // 4
    for run in runs:
        weights = _weights(run, base)
        if parts[-1] and (weights > room or len(parts[-1]) == MOST_BESIDE):
            parts.append([])
            room = free // 4
        parts[-1].append(run)
        room -= weights
    return [part for part in parts if part]


def _group(runs: Sequence[Run], base: Base, free: int, together: int | None) -> Group:
    needs = sorted((_memory(run, base) for run in runs), reverse=True)
    most = together or MOST
    fitting = 0
    while fitting < min(len(needs), most) and (together or sum(needs[: fitting + 1]) <= free // 2):
        fitting += 1
    fitting = max(1, fitting)
    return Group([run.name for run in runs], fitting, sum(needs[:fitting]), fitting if together else None)


def tell(groups: Sequence[Group], reporter: Reporter) -> None:
    """Says the plan before anything is trained."""
    count = sum(len(group.runs) for group in groups)
    many = "groups" if len(groups) > 1 else "group"
    known = [group.minutes for group in groups if group.minutes is not None]
    total = f", about {_said(sum(known))} in all" if len(known) == len(groups) else ""
    reporter.line(f"{count} runs in {len(groups)} {many}{total}; the runs of a group train in one pass over one base")
    for place, group in enumerate(groups, 1):
        names = ", ".join(group.runs[:4]) + (f" and {len(group.runs) - 4} more" if len(group.runs) > 4 else "")
        at_once = f"{group.together or group.most} at once, " if len(group.runs) > 1 else ""
        minutes = "" if group.minutes is None else f", {_said(group.minutes)}"
        reporter.line(f"  {place}: {names}; {at_once}about {group.memory / 1e6:,.0f} MB beside the base{minutes}")


def _said(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def keep(out: Path, names: Sequence[str], groups: Sequence[Group]) -> None:
    """Writes the plan, with all that is known of it."""
    write_json(out / PLAN, {"names": list(names), "groups": [asdict(group) for group in groups]})


def kept(out: Path) -> list[Group]:
    """The plan of a comparison that was left, as far as it got."""
    path = out / PLAN
    plan: Mapping[str, Any] = read_json(path, "plan of a comparison") if path.is_file() else {}
    return [Group(**values) for values in plan.get("groups", ())]
