"""The report's tables, as HTML."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from graftlm.core.results import LONG
from graftlm.reporting._settings import Setting, not_compared
from graftlm.reporting._statistics import Verdict

SHOWN = 12  # examples that methods disagree on
NARROW = 30  # characters of a true answer that stay on one line


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], kind: str = "numbers") -> str:
    """Rows are (class, cells); cells are HTML."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "\n".join(
        f'<tr class="{kind}">'
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for kind, cells in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def leaderboard(order: Sequence[Setting], verdict: Verdict | None) -> str:
    """A line a setting; a dot marks those that cannot be told from the best."""
    below = {difference.other: difference for difference in verdict.differences} if verdict else {}
    columns = ["method", "runs", "test", "behind", "validation", "trained", "stored", "seconds", "memory", "lr"]
    rows: list[tuple[str, list[str]]] = []
    for setting in order:
        own = below.get(setting.name)
        best = verdict is not None and setting.name == verdict.best
        behind = "not compared" if not_compared(setting, verdict) else ""
        if own is not None:
            behind = f"{own.value:.3f} <small>(p {_p(own.p)})</small>"
        cells = [
            html.escape(setting.name),
            f"{len(setting.done)}/{len(setting.runs)}",
            _spread(setting.spread("test")),
            behind,
            _spread(setting.spread("validation")),
            *_costs(setting),
        ]
        rows.append(("alike" if best or (own is not None and not own.real) else "", cells))
    note = "<p>Means ± standard deviation over seeds; seconds of training, a run's share of the steps that it shared; "
    note += "memory as estimated for a run beside the base. ● cannot be told from the best; p is adjusted.</p>"
    failed = [run for setting in order for run in setting.runs if run.state == "failed"]
    lines = "".join(
        f'<p class="wrong">{html.escape(run.name)} failed: {html.escape(str(run.record.get("stopped", "")))}</p>'
        for run in failed
    )
    return table(columns, rows) + note + lines


def _costs(setting: Setting) -> list[str]:
    runs = setting.done or list(setting.runs)
    first = runs[0]
    memory = max(run.memory for run in runs)
    return [
        f"{first.trained:,}",
        f"{first.stored:,}",
        f"{setting.seconds:.1f}",
        f"{memory / 1e6:,.0f} MB" if memory else "–",
        f"{first.rate:g}" if first.rate else "–",
    ]


def _spread(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "–"
    value, deviation = found
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def _p(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def classes(tests: Sequence[Mapping[str, Any]]) -> str:
    """Precision, recall and F1 of each class, means over the seeds that have it."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for test in tests for row in test["per_class"]):
        found.setdefault(str(row["label"]), []).append(row)
    keys = [key for key in next(iter(found.values()))[0] if key != "label"]
    rows: list[tuple[str, list[str]]] = []
    for label, own in found.items():
        values = [mean(float(row[key] or 0) for row in own) for key in keys]
        cells = [
            f"{value:,.0f}" if key == "support" else f"{value:.3f}" for key, value in zip(keys, values, strict=True)
        ]
        rows.append(("", [html.escape(label), *cells]))
    return table(["class", *keys], rows)


def confusion(tests: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[int]]]:
    """Labels, and counts true by predicted, summed over seeds."""
    size = range(len(tests[0]["confusion"]))
    counts = [[sum(test["confusion"][row][column] for test in tests) for column in size] for row in size]
    return list(tests[0]["labels"]), counts


def disagreements(found: Sequence[Setting], texts: Sequence[Mapping[str, Any]]) -> str:
    """The test examples on which the settings' answers, each the commonest of its seeds, differ most."""
    answers = {setting.name: own for setting in found if (own := _commonest(setting))}
    if len(answers) < 2:
        return ""
    size = min(len(own) for own in answers.values())
    split = [_split([own[place]["answer"] for own in answers.values()]) for place in range(size)]
    ranked = sorted(range(size), key=lambda place: -split[place])
    rows: list[tuple[str, list[str]]] = []
    for place in (place for place in ranked[:SHOWN] if split[place] > 0):
        groups: dict[str, list[str]] = {}
        for name, own in answers.items():
            groups.setdefault(own[place]["answer"], []).append(name)
        given = texts[place].get("true", "") if place < len(texts) else ""
        trues = given if isinstance(given, list) else [str(given)]
        true = " / ".join(map(str, trues))
        shares = {own[place]["answer"]: own[place]["share"] for own in answers.values()}
        most = sorted(groups.items(), key=lambda item: -len(item[1]))
        said = "; ".join(_side(answer, names, _whole(answer, shares[answer], trues)) for answer, names in most)
        text = _text(texts[place]) if place < len(texts) else f"example {place + 1}"
        wide = ' class="text"' if len(true) > NARROW else ""
        cells = [f'<td class="text">{text}</td>', f"<td{wide}>{html.escape(_cut(true))}</td>"]
        rows.append(("", [*cells, f'<td class="text">{said}</td>']))
    if not rows:
        return "<p>All settings give the same answers.</p>"
    count = sum(share > 0 for share in split)
    note = f"<p>{count:,} of {size:,} test examples; those that divide the settings most are shown.</p>"
    return note + table(["text", "true", "answers"], rows, "texts")


def _side(answer: str, names: Sequence[str], right: bool) -> str:
    return f'<b class="{"right" if right else "wrong"}">{html.escape(_cut(answer))}</b> {html.escape(_listed(names))}'


def _whole(answer: str, share: Sequence[float] | None, trues: Sequence[str]) -> bool:
    """Whether an answer has all that the metric counts, or where that is no sum over examples, is a true one."""
    return answer in trues if share is None else share[0] >= share[1]


def _cut(text: str) -> str:
    return text if len(text) <= LONG else text[:LONG] + "…"


def _commonest(setting: Setting) -> list[Mapping[str, Any]]:
    """A row an example, with the answer that most seeds give; none where answers are no texts, for none are alike."""
    rows = list(zip(*setting.answers, strict=False))
    if any(not isinstance(row["answer"], str) for own in rows for row in own):
        return []
    most = [Counter(row["answer"] for row in own).most_common(1)[0][0] for own in rows]
    return [next(row for row in own if row["answer"] == answer) for own, answer in zip(rows, most, strict=True)]


def _split(answers: Sequence[str]) -> float:
    """The share of settings that do not give the commonest answer."""
    return 1 - Counter(answers).most_common(1)[0][1] / len(answers)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _text(row: Mapping[str, Any]) -> str:
    second = f"<br>{html.escape(row['text_pair'])}" if row.get("text_pair") else ""
    return html.escape(row["text"]) + second


def where_time_went(found: Sequence[Setting]) -> str:
    """Seconds of all runs together."""
    timing = [run.record.get("timing", {}) for setting in found for run in setting.runs]
    parts = {"training": "train_seconds", "validation": "evaluate_seconds", "test": "test_seconds"}
    sums = {name: sum(own.get(key, 0.0) for own in timing) for name, key in parts.items()}
    return "All runs: " + ", ".join(f"{seconds:.1f} s {name}" for name, seconds in sums.items() if seconds) + "."


def commands(setting: Setting) -> str:
    """What trains each run of a setting alone."""
    lines = "\n".join(html.escape(run.command) for run in setting.runs)
    return f"<details><summary>{html.escape(setting.name)}</summary><pre>{lines}</pre></details>"


def made_with(found: Sequence[Setting]) -> str:
    """Versions and machines."""
    records = [run.record for setting in found for run in setting.runs]
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) for record in records
    )
    machines = dict.fromkeys(
        f"{own.get('device')} {own.get('kind')}, {own.get('threads')} threads of torch's"
        for record in records
        if (own := record.get("machine"))
    )
    return "; ".join([*filter(None, versions), *machines]) + "."
