"""The report's figures: readable on white and on black, in print, and by those who see fewer colours."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import plotly.graph_objects as graphs

from graftlm.core.results import Result
from graftlm.reporting._settings import Setting, ranked
from graftlm.reporting._statistics import Verdict
from graftlm.reporting.gates import by_layer

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A68C4", "#8C6D31")  # Okabe and Ito's
DASHES = ("solid", "dash", "dot", "dashdot")
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
GREY, GRID, ACCENT = "#808080", "rgba(128,128,128,0.22)", "#0072B2"
MOST_CELLS = 20  # a side of a confusion matrix with numbers
LONG = 28  # letters of a setting's name in a figure
Looks = Mapping[str, Mapping[str, Any]]


def looks(found: Sequence[Setting]) -> Looks:
    """A colour, a dash and a mark for each setting, the same in all figures."""
    return {
        setting.name: {
            "color": COLOURS[place % len(COLOURS)],
            "dash": DASHES[place // len(COLOURS) % len(DASHES)],
            "symbol": MARKS[place // len(COLOURS) % len(MARKS)],
        }
        for place, setting in enumerate(found)
    }


def short(name: str) -> str:
    """Its beginning and its end, where settings differ."""
    half = LONG // 2
    return name if len(name) <= LONG else f"{name[: half - 1]}…{name[-half:]}"


def apart(names: Sequence[str]) -> list[str]:
    """Short names of which no two are the same, since an axis would take those for one."""
    seen: dict[str, int] = defaultdict(int)
    found: list[str] = []
    for name in map(short, names):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def intervals(found: Sequence[Setting], verdict: Verdict, metric: str) -> graphs.Figure:
    """Each compared setting's mean on test with its 95 % interval, if known, the best on top; each seed as a dot."""
    own = [setting for setting in reversed(ranked(found)) if setting.name in verdict.means]
    names = apart([setting.name for setting in own])
    means = [verdict.means[setting.name] for setting in own]
    sides = [verdict.intervals[setting.name] for setting in own]
    sides = [side if np.isfinite(side).all() else (value, value) for side, value in zip(sides, means, strict=True)]
    figure = graphs.Figure()
    dots = [(value, name) for setting, name in zip(own, names, strict=True) for value in setting.values("test")]
    figure.add_scatter(
        x=[value for value, _ in dots],
        y=[name for _, name in dots],
        mode="markers",
        marker={"color": GREY, "size": 7, "opacity": 0.55},
        name="one seed",
    )
    figure.add_scatter(
        x=means,
        y=names,
        mode="markers",
        marker={"color": ACCENT, "size": 10, "symbol": "diamond"},
        error_x={
            "type": "data",
            "array": [high - value for value, (_, high) in zip(means, sides, strict=True)],
            "arrayminus": [value - low for value, (low, _) in zip(means, sides, strict=True)],
            "color": ACCENT,
            "thickness": 2,
        },
        name="mean, 95 % interval",
    )
    return styled(figure, x=f"test {metric}", height=120 + 34 * len(own))


def against_parameters(found: Sequence[Setting], metric: str, style: Looks) -> graphs.Figure:
    """The mean metric against the number of trained parameters, on a log axis."""
    figure, counts = graphs.Figure(), []
    for setting in found:
        spread = setting.spread("test") or setting.spread("validation")
        if spread is None or not setting.first.trained:
            continue
        counts.append(setting.done[0].trained)
        look = style[setting.name]
        figure.add_scatter(
            x=counts[-1:],
            y=[spread[0]],
            error_y={"array": [spread[1] or 0], "thickness": 1.2, "color": look["color"]},
            mode="markers",
            marker={"color": look["color"], "symbol": look["symbol"], "size": 12},
            name=short(setting.name),
        )
    near = bool(counts) and max(counts) < 1000 * min(counts)  # labels at 1, 2 and 5 of more decades would overlap
    figure.update_xaxes(type="log", tickformat="~s", dtick="D2" if near else 1)
    return styled(figure, x="trained parameters", y=metric)


def learning(found: Sequence[Setting], what: str, style: Looks) -> graphs.Figure | None:
    """A number of the histories over the steps, the mean over a setting's seeds; None where no run has it."""
    figure = graphs.Figure()
    for setting in found:
        curve = _curve(setting.runs, what)
        if len(curve) > 1:
            look = style[setting.name]
            figure.add_scatter(
                x=list(curve),
                y=list(curve.values()),
                mode="lines",
                line={"color": look["color"], "dash": look["dash"], "width": 2},
                name=short(setting.name),
            )
    title = "training loss" if what == "loss" else f"validation {what}"
    return styled(figure, x="step", y=title) if figure.data else None


def _curve(runs: Sequence[Result], what: str) -> dict[int, float]:
    """Step -> the mean over the seeds that got so far."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for row in run.history():
            value = row.get("loss") if what == "loss" else row.get("metrics", {}).get(what)
            if value is not None:
                found[row["step"]].append(value)
    return {step: mean(found[step]) for step in sorted(found)}


def few_shot(found: Sequence[Setting], metric: str) -> graphs.Figure | None:
    """The mean over shots, a line for what differs in nothing else; None where shots do not vary."""
    kinds: dict[str, list[Setting]] = defaultdict(list)
    for setting in found:
        if setting.shots and setting.spread("test"):
            kinds[f"{setting.kind} {setting.first.config['training'].get('learning_rate')}"].append(setting)
    lines = [sorted(own, key=lambda setting: setting.shots or 0) for own in kinds.values() if len(own) > 1]
    if not lines:
        return None
    figure = graphs.Figure()
    for place, own in enumerate(lines):
        spreads = [spread for setting in own if (spread := setting.spread("test"))]
        colour = COLOURS[place % len(COLOURS)]
        figure.add_scatter(
            x=[setting.shots for setting in own],
            y=[value for value, _ in spreads],
            error_y={"array": [deviation or 0 for _, deviation in spreads], "thickness": 1.2, "color": colour},
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[place // len(COLOURS) % len(DASHES)]},
            name=short(own[0].name.replace(f"-shots{own[0].shots}", "")),
        )
    ticks = sorted({setting.shots for own in lines for setting in own if setting.shots})
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))
    return styled(figure, x="examples a label", y=f"test {metric}")


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> graphs.Figure:
    """True by predicted, as shares of the true class, with the counts in the cells."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    names = apart(labels)
    figure = graphs.Figure(
        graphs.Heatmap(
            z=shares,
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(0,114,178,0.06)"], [1, "rgba(0,114,178,1)"]],
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    for y, row in zip(names, counts, strict=True) if len(names) <= MOST_CELLS else ():
        for x, count in zip(names, row, strict=True):
            colour = "white" if count > sum(row) / 2 else GREY
            figure.add_annotation(x=x, y=y, text=str(count), showarrow=False, font={"color": colour})
    figure.update_yaxes(autorange="reversed")
    return styled(figure, x="predicted", y="true", height=150 + 42 * min(len(labels), 20))


def gates(runs: Sequence[Result]) -> graphs.Figure:
    """How far each gate opens in each layer, the mean over a setting's seeds."""
    names = dict.fromkeys(name for run in runs for name in run.record["gates"])
    table = by_layer(
        {name: [run.record["gates"][name] for run in runs if name in run.record["gates"]] for name in names}
    )
    figure = graphs.Figure()
    for place, part in enumerate(dict.fromkeys(part for row in table.values() for part in row)):
        own = {layer: mean(row[part]) for layer, row in table.items() if part in row}
        figure.add_scatter(
            x=[layer.rsplit(".", 1)[-1] for layer in own],
            y=list(own.values()),
            mode="lines+markers",
            line={"color": COLOURS[place % len(COLOURS)]},
            name=part,
        )
    figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(type="category")
    return styled(figure, x="layer", y="gate")


def times(found: Sequence[Setting]) -> graphs.Figure:
    """Where each setting's seconds went, its seeds together."""
    figure = graphs.Figure()
    names = apart([setting.name for setting in reversed(found)])
    parts = {"train_seconds": "training", "evaluate_seconds": "validation", "test_seconds": "test"}
    for place, (key, title) in enumerate(parts.items()):
        seconds = [
            sum(run.record.get("timing", {}).get(key, 0.0) for run in setting.runs) for setting in reversed(found)
        ]
        if any(seconds):
            figure.add_bar(x=seconds, y=names, orientation="h", name=title, marker={"color": COLOURS[place]})
    figure.update_layout(barmode="stack", bargap=0.35)
    return styled(figure, x="seconds, all seeds", height=130 + 30 * len(found))


def styled(figure: graphs.Figure, *, x: str = "", y: str = "", height: int = 420) -> graphs.Figure:
    """No colours of paper and ink but those that can be read on both."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 12, "r": 12, "t": 12, "b": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        xaxis={"title": {"text": x, "standoff": 8}, "automargin": True},
        yaxis={"title": y, "automargin": True},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GREY, ticks="")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=GREY, ticks="")
    return figure
