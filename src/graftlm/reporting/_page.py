"""The report as one HTML file that needs nothing else: sections that hold what the runs have, in the reader's order."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import plotly.graph_objects as graphs
from plotly.offline import get_plotlyjs

from graftlm.core.results import AGAIN, EXAMPLES, read_lines
from graftlm.reporting import _figures, _parts
from graftlm.reporting._settings import Setting, compared, ranked
from graftlm.reporting._statistics import DRAWS, Verdict
from graftlm.reporting._style import STYLE


def page(folders: Sequence[Path], found: Sequence[Setting], verdict: Verdict | None, said: str) -> str:
    """The whole file."""
    runs = [run for setting in found for run in setting.runs]
    model, data = (", ".join(dict.fromkeys(map(str, values))) for values in _about(found))
    title = f"{model} on {Path(data).name}"
    body = "\n".join(_sections(folders, found, verdict))
    failed = sum(run.state == "failed" for run in runs)
    facts = f"{len(found)} settings, {len(runs)} runs" + (f", {failed} failed" if failed else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<header><p class="kind">Comparison of methods</p><h1>{html.escape(title)}</h1><p class="facts">{facts}</p></header>
<p class="verdict">{html.escape(said)}</p>
{body}
<script>
addEventListener("load", () => dispatchEvent(new Event("resize")))
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => part.open = true))
</script>
</body>
</html>
"""


def _about(found: Sequence[Setting]) -> tuple[list[str], list[str]]:
    configs = [setting.first.config for setting in found]
    return [config["model"] for config in configs], [config["data"]["path"] for config in configs]


def _sections(folders: Sequence[Path], found: Sequence[Setting], verdict: Verdict | None) -> Iterator[str]:
    metric, style, order = _metric(found), _figures.looks(found), ranked(found)
    if verdict is not None:
        figure = _figures.intervals(found, verdict, metric)
        yield section("How sure the ranking is", drawn(figure), _explained(verdict))
    yield section("Leaderboard", _parts.leaderboard(order, verdict))
    if any(setting.spread("test") or setting.spread("validation") for setting in found):
        figure = _figures.against_parameters(order, metric, style)
        yield section("Metric against parameters", drawn(figure), "Mean ± standard deviation over seeds.")
    shots = _figures.few_shot(found, metric)
    if shots is not None:
        yield section("Few-shot curves", drawn(shots), "Mean ± standard deviation over seeds.")
    curves = [_figures.learning(order, what, style) for what in (metric, "loss")]
    if any(curves):
        yield section("Learning curves", *(drawn(curve) for curve in curves if curve is not None))
    yield from _best(order, verdict)
    texts = [row for folder in folders for row in read_lines(folder / EXAMPLES)][: _size(found)]
    disagreed = _parts.disagreements(compared(found), texts)
    if disagreed:
        yield section("Where methods disagree", disagreed)
    for setting in found:
        runs = [run for run in setting.done if run.record.get("gates")]
        if runs:
            yield section(f"Gates of {setting.name}", drawn(_figures.gates(runs)), "Mean over test examples and seeds.")
    yield section("Where the time went", drawn(_figures.times(order)), _parts.where_time_went(found))
    yield section(
        "Commands",
        f"Each trains one run alone, into a folder under {AGAIN}/, and ends where it ended here, but for rounding. "
        "Paths are as they were given: start it where the comparison was started.",
        *(_parts.commands(setting) for setting in order),
    )
    yield section("Made with", _parts.made_with(found))


def _best(order: Sequence[Setting], verdict: Verdict | None) -> Iterator[str]:
    """Classes and confusion of the best setting, its seeds together."""
    best = next((setting for setting in order if verdict and setting.name == verdict.best), order[0])
    tests = [run.record["test"] for run in best.done if run.record.get("test")]
    if any(test["per_class"] for test in tests):
        yield section(f"Classes of {best.name}", _parts.classes(tests), "Means over seeds.")
    if tests and tests[0]["confusion"]:
        figure = _figures.confusion(*_parts.confusion(tests))
        yield section(f"Confusion of {best.name}", drawn(figure), "Test examples, all seeds together.")


def _metric(found: Sequence[Setting]) -> str:
    return next((run.metric for setting in found for run in setting.runs if run.metric), "metric")


def _size(found: Sequence[Setting]) -> int:
    tests = [run.record["test"] for setting in found for run in setting.done if run.record.get("test")]
    return tests[0]["examples"] if tests else 0


def _explained(verdict: Verdict) -> str:
    over = f"{verdict.examples:,} test examples" if verdict.examples else ""
    seeds = f"{verdict.seeds} seeds" if verdict.seeds > 1 else ""
    sources = " and ".join(filter(None, [over, seeds])) or "nothing that varies"
    pairs = f"all {verdict.pairs} pairs" if verdict.pairs > 1 else "their one pair"
    alone = "" if verdict.seeds > 1 else " One seed says nothing of how much another would differ."
    return (
        f"Intervals of 95 % from {DRAWS:,} bootstrap replicates over {sources}: a replicate draws test examples anew, "
        "the same for all settings, and moves each mean by a t-distributed error of its seeds. Differences are judged "
        f"together, by the largest studentised error over {pairs} (max-statistic).{alone}"
    )


def section(title: str, *parts: str) -> str:
    """A heading and its parts; plain text becomes a paragraph."""
    inner = "\n".join(part if part.startswith("<") else f"<p>{html.escape(part)}</p>" for part in parts if part)
    return f"<section><h2>{html.escape(title)}</h2>\n{inner}\n</section>"


def drawn(figure: graphs.Figure) -> str:
    """A figure without a copy of plotly's script."""
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    inner = figure.to_html(full_html=False, include_plotlyjs=False, config=config, default_width="100%")
    return f'<div class="figure">{inner}</div>'
