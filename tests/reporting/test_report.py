"""The report of comparisons, made from folders that are written here by hand."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from graftlm.core.config import merged, overrides
from graftlm.core.errors import UserError
from graftlm.core.results import fit_command, results
from graftlm.core.settings import FitConfig
from graftlm.reporting import _figures, _parts
from graftlm.reporting._settings import settings
from graftlm.reporting._tables import escaped
from graftlm.reporting.report import report

LABELS = ["bad", "good"]


def _comparison(
    out: Path, methods: dict[str, float], *, seeds: int = 2, shots: tuple[int, ...] = (16,), **more: Any
) -> Path:
    """Runs that are right on so many of 40 examples."""
    out.mkdir()
    rows = [{"text": f"text <{place}>", "true": LABELS[place % 2]} for place in range(40)]
    (out / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for method, right in methods.items():
        for shot in shots:
            for seed in range(seeds):
                _run(out / f"runs/{method}-shots{shot}-seed{seed}", method, right + seed, shot, seed, rows)
    return out


def _run(folder: Path, method: str, right: float, shots: int, seed: int, rows: list[Any]) -> None:
    folder.mkdir(parents=True)
    answers = [row["true"] if place < right else LABELS[1 - place % 2] for place, row in enumerate(rows)]
    hits = [[float(answer == row["true"]), 1.0] for answer, row in zip(answers, rows, strict=True)]
    lines = [{"answer": answer, "share": hit} for answer, hit in zip(answers, hits, strict=True)]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 2, "metrics": {"accuracy": 0.5}}]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    metrics = {"split": "validation", "metrics": {"accuracy": 0.5}, "primary": "accuracy"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    data = {"path": "words & more", "shots": shots}
    test = {"metrics": {"accuracy": sum(hit for hit, _ in hits) / 40}, "labels": LABELS, "examples": 40, "data": "x"}
    test |= {"confusion": [[15, 5], [4, 16]]}
    test |= {
        "per_class": [{"label": name, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 20} for name in LABELS]
    }
    record = {
        "state": "done",
        "seed": seed,
        "metric": "accuracy",
        "learning_rate": 0.001,
        "config": {"model": "tiny", "data": data, "method": {"name": method}, "seed": seed, "out": str(folder)},
        "parameters": {"delta": 100, "head": 10, "kept": 110, "base": 1000},
        "timing": {"train_seconds": 2.0, "evaluate_seconds": 0.5, "test_seconds": 0.25},
        "gates": {"encoder.layer.0.attention.lora": 0.4, "encoder.layer.1.attention.lora": 0.6},
        "versions": {"python": "3"},
        "machine": {"device": "cpu", "kind": "x", "threads": 1},
        "data": str(folder.parents[1]),
        "test": test,
    }
    record["config"]["training"] = {}
    (folder / "run.json").write_text(json.dumps(record))


def test_a_report_holds_every_part_and_needs_no_network(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora": 38, "head": 12}, shots=(8, 16))
    path, said = report([out])
    text = path.read_text()
    assert said.startswith("At 16 examples a label: lora-shots16 is best: test accuracy 0.962 (95 % interval 0.")
    for title in ("Leaderboard", "Metric against parameters", "Few-shot curves", "Learning curves", "Commands"):
        assert f"<h2>{title}</h2>" in text
    for title in ("Classes of lora-shots16", "Confusion of lora-shots16", "Where methods disagree", "Gates of lora"):
        assert f"<h2>{title}" in text
    assert "text &lt;20&gt;" in text
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"(src|href)=", page)
    assert "graftlm fit --model tiny --data &#x27;words &amp; more&#x27;" in page


def test_results_are_written_as_csv_parquet_and_latex(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"prompt_tuning": 30, "head": 12})
    report([out])
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["run"] for row in rows][:1] == ["head-shots16-seed0"]
    assert {row["test"] for row in rows} == {"0.3", "0.325", "0.75", "0.775"}
    assert pyarrow.parquet.read_table(out / "results.parquet").num_rows == 4
    latex = (out / "results.tex").read_text()
    assert r"\textbf{prompt\_tuning-shots16} & $0.500 \pm 0.000$ & $0.762 \pm 0.018$ & 110 & 2.0 \\" in latex


def test_a_name_in_latex_is_printed_as_it_stands() -> None:
    assert escaped("a_b&50%#$ {c}") == r"a\_b\&50\%\#\$ \{c\}"
    assert escaped(r"\~^") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}"
    assert escaped("[1]*<|>") == r"{[}1]{*}\textless{}\textbar{}\textgreater{}"


def test_comparisons_are_merged_and_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = _comparison(tmp_path / "one", {"lora": 30, "head": 12})
    two = _comparison(tmp_path / "two", {"lora": 20})
    _, said = report([one, two], tmp_path / "both")
    assert {run.setting for run in results([one, two])} == {"one/lora-shots16", "two/lora-shots16", "head-shots16"}
    assert said.startswith("one/lora-shots16 is best")
    assert "above the next, two/lora-shots16 (" in said
    assert (tmp_path / "both/report.html").is_file()


@pytest.mark.parametrize(("state", "left"), [("done", "two"), ("failed", "one")])
def test_a_run_that_stands_in_two_comparisons_counts_once_and_the_report_says_so(
    state: str, left: str, tmp_path: Path
) -> None:
    one = _comparison(tmp_path / "one", {"lora": 30})
    two = shutil.copytree(one, tmp_path / "two")
    for folder, number, changes in ((one, 1, {"state": state}), (two, 0, {"seed": 2})):
        path = folder / f"runs/lora-shots16-seed{number}/run.json"
        record = json.loads(path.read_text()) | changes
        record["config"]["seed"] = record["seed"]
        path.write_text(json.dumps(record))
    (two / "runs/lora-shots16-seed0").rename(two / "runs/lora-shots16-seed2")
    found = settings(results([one, two]))
    assert {setting.name: sorted(run.seed for run in setting.done) for setting in found} == {"lora-shots16": [0, 1, 2]}
    repeated = tmp_path / left / "runs/lora-shots16-seed1"
    assert report([one, two])[1].endswith(f"Left out, since another folder has the same run: {repeated}.")


def test_comparisons_whose_folders_have_one_name_are_told_apart_by_more_of_their_paths(tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "b/other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    one, two = _comparison(tmp_path / "a/x", {"lora": 30}), _comparison(tmp_path / "b/x", {"lora": 20})
    three = _comparison(tmp_path / "b/other", {"lora": 10})
    names = [f"{home}/lora-shots16" for home in ("a/x", "b/x", "other")]
    assert [setting.name for setting in settings(results([one, two, three]))] == names
    assert all(len(setting.runs) == 2 for setting in settings(results([one, two, three])))


def test_single_runs_that_differ_are_told_apart_where_one_folder_holds_them(tmp_path: Path) -> None:
    found = sorted((_comparison(tmp_path / "c", {"lora": 30}) / "runs").iterdir())
    path = found[1] / "run.json"
    record = json.loads(path.read_text())
    record["config"]["method"]["rank"] = 4
    path.write_text(json.dumps(record))
    assert [run.setting for run in results(found)] == ["lora-shots16-seed0", "lora-shots16-seed1"]


def test_without_validation_every_rate_of_a_method_is_compared(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora-lr0.00001": 20, "lora-lr0.01": 36})
    for path in out.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["method"] = {"name": "lora"}
        path.write_text(json.dumps(record))
        path.with_name("metrics.json").unlink()
    path, said = report([out])
    assert said.startswith("lora-lr0.01-shots16 is best: test accuracy 0.91")
    assert "the next, lora-lr0.00001-shots16" in said
    assert "Classes of lora-lr0.01-shots16" in path.read_text()


def test_a_rate_that_validation_does_not_choose_is_said_not_to_be_compared_where_its_test_is_higher(
    tmp_path: Path,
) -> None:
    out = _comparison(tmp_path / "c", {"lora-lr0.001": 20, "lora-lr0.01": 24, "head": 18}, shots=(8, 16))
    for path in out.glob("runs/lora*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["method"] = {"name": "lora"}
        path.write_text(json.dumps(record))
        if "lr0.001" in str(path):
            metrics = {"split": "validation", "metrics": {"accuracy": 0.75}, "primary": "accuracy"}
            path.with_name("metrics.json").write_text(json.dumps(metrics))
    path, said = report([out])
    assert said.startswith(
        "At 16 examples a label, each method at the rate that is best on validation: no single winner: "
        "lora-lr0.001-shots16 has the highest test accuracy 0.512"
    )
    latex = (out / "results.tex").read_text()
    assert latex.startswith("% bold: cannot be told from the best; italic: not compared (")
    assert r"\textit{lora-lr0.01-shots16} & $0.500 \pm 0.000$ & $0.613" in latex
    assert r"\textbf{lora-lr0.001-shots16}" in latex
    assert path.read_text().count("<td>not compared</td>") == 4


def _answering(out: Path, method: str, rows: list[tuple[Any, Any]]) -> None:
    """Has both seeds of a method give these answers, an answer and its share an example."""
    for path in out.glob(f"runs/{method}-*"):
        lines = [json.dumps({"answer": answer, "share": share}) + "\n" for answer, share in rows]
        (path / "test.jsonl").write_text("".join(lines))


def test_an_answer_is_right_that_has_all_that_the_metric_counts(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"a": 30, "b": 20})
    long = "w " * 400
    one: list[tuple[Any, Any]] = [("a dog", [1.0, 1.0]), (f"{long}a", [0.5, 1.0]), ("good", None)]
    other: list[tuple[Any, Any]] = [("A dog!", [1.0, 1.0]), (f"{long}b", [1.0, 1.0]), ("bad", None)]
    for method, rows in (("a", one), ("b", other)):
        _answering(out, method, rows + [("bad", [1.0, 1.0])] * 37)
    trues = ["the dog", long, ["fine", "good"], *["bad"] * 37]
    texts = [json.dumps({"text": f"text {place}", "true": true}) + "\n" for place, true in enumerate(trues)]
    (out / "examples.jsonl").write_text("".join(texts))
    text = report([out])[0].read_text()
    assert "<p>3 of 40 test examples; those that divide" in text
    said = re.findall(r'<b class="(\w+)">(.*?)</b>', text)
    cut = f"{long[:400]}…"
    assert said[:4] == [("right", "a dog"), ("right", "A dog!"), ("wrong", cut), ("right", cut)]
    assert said[4:] == [("right", "good"), ("wrong", "bad")]
    assert "<td>fine / good</td>" in text
    assert long not in text


@pytest.mark.parametrize("answer", [None, 2.5])
def test_answers_that_are_no_texts_are_not_asked_whether_they_agree(answer: float | None, tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"a": 30, "b": 20})
    for method in "ab":
        _answering(out, method, [(answer, None)] * 40)
    assert "Where methods disagree" not in report([out])[0].read_text()


def test_classes_are_means_by_name_where_seeds_found_others() -> None:
    def rows(*found: tuple[str, float, int]) -> dict[str, Any]:
        return {"per_class": [{"label": name, "f1": f1, "support": support} for name, f1, support in found]}

    tests = [rows(), rows(("LOC", 1.0, 4), ("PER", 1.0, 4)), rows(("DATE", 0.0, 0), ("LOC", 0.5, 4), ("PER", 1.0, 4))]
    for own in (tests, tests[::-1]):
        cells = re.findall(r"<td>(\w+)</td><td>([\d.]+)</td><td>(\d+)</td>", _parts.classes(own))
        assert sorted(cells) == [("DATE", "0.000", "0"), ("LOC", "0.750", "4"), ("PER", "1.000", "4")]


def test_what_cannot_be_reported_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere; report takes the folders of comparisons or runs"):
        report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no runs in"):
        report([tmp_path / "empty"])
    one, two = _comparison(tmp_path / "one", {"lora": 30}), _comparison(tmp_path / "two", {"head": 30})
    record = json.loads((two / "runs/head-shots16-seed0/run.json").read_text())
    record["test"]["data"] = "other"
    (two / "runs/head-shots16-seed0/run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"goes by other test examples than .*; report them apart"):
        report([one, two])


def test_a_runs_command_says_all_that_differs_from_the_defaults() -> None:
    config = {"model": "minilm", "data": {"path": "my data", "shots": 16}, "method": {"name": "lora", "rank": 4}}
    config |= {"training": {"max_steps": 3, "trackers": ["tensorboard"]}, "seed": 2, "out": "runs/a"}
    assert fit_command(config) == (
        "graftlm fit --model minilm --data 'my data' --seed 2 --out runs/a --method lora -o method.rank=4 "
        "-o data.shots=16 -o training.max_steps=3 -o 'training.trackers=[tensorboard]'"
    )


@pytest.mark.parametrize(
    "text", ["{text} It was {mask}.", "Is it: {text}? {mask} # so", "no", "1", "- a", "a\nb", "'é' \u2028 😀\x85"]
)
def test_a_runs_command_is_read_back_as_the_run_that_it_was(text: str) -> None:
    values = {"model": "m", "data": "d", "method": "lora", "out": "o", "seed": 3}
    prompt = {"template": f"{text} ", "verbalizer": {text: [text], "b": "no"}, "aliases": {"text": text}}
    config = FitConfig.parse({**values, "prompt": prompt})
    words = shlex.split(fit_command(config.model_dump(mode="json")))
    options = [value for name, value in pairwise(words) if name == "-o"]
    assert FitConfig.parse(merged({**values, "data": {"path": "d"}}, overrides(options))) == config


def test_a_reports_commands_do_not_write_into_the_runs_that_are_there(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora": 38})
    assert "--out again/lora-shots16-seed1 " in results([out])[1].command
    assert "--out again/lora-shots16-seed1 " in report([out])[0].read_text()


def test_settings_and_labels_whose_long_names_begin_alike_keep_a_row_of_their_own(tmp_path: Path) -> None:
    names = [f"lora-sites-attention.query-attention.value-r{rank}-dropout0.1-and-on" for rank in (4, 8, 16)]
    found = settings(results([_comparison(tmp_path / "c", dict.fromkeys(names, 20.0))]))
    bars = _figures.times(found).data[0]
    assert (len(set(bars.y)), list(bars.x)) == (3, [4.0, 4.0, 4.0])
    assert len(set(_figures.confusion(names, [[1] * 3] * 3).data[0].x)) == 3


def test_one_seed_of_a_metric_that_is_no_mean_over_examples_is_no_winner(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora": 38, "head": 12}, seeds=1)
    for path in out.glob("runs/*/test.jsonl"):
        path.write_text(re.sub(r"\[.*?\]", "null", path.read_text()))
    path, said = report([out])
    assert said.startswith("lora-shots16 has the highest test accuracy 0.950, but how much of that is chance cannot")
    assert not re.search(
        r"(?<![A-Za-z])-?(inf|nan|Infinity|NaN)\b",
        re.sub(r"<script>.*?</script>", "", path.read_text(), count=1, flags=re.S),
    )


def test_where_less_is_better_the_least_is_ranked_first_in_the_page_the_table_and_the_verdict(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"bad": 36, "worse": 38, "best": 2})
    for path in out.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "metric": "accuracy", "lower_is_better": True}))
    path, said = report([out])
    assert said.startswith("best-shots16 is best: test accuracy 0.062 (95 % interval")
    assert "below the next, bad-shots16" in said
    assert not re.search(r"highest|above", said)
    rows = re.findall(r"<tr class=\"\w*\"><td>(\w+)-shots16</td>", path.read_text("utf-8"))
    assert rows[:3] == ["best", "bad", "worse"]
    assert re.findall(r"(\w+)-shots16", (out / "results.tex").read_text()) == ["best", "bad", "worse"]


def test_an_evaluation_on_another_split_leaves_the_report_its_validation(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora": 20})
    for path in out.glob("runs/*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "validation": {"accuracy": 0.5}}))
        path.with_name("metrics.json").write_text(
            json.dumps({"split": "test", "metrics": {"accuracy": 0.9}, "primary": "accuracy"})
        )
    assert [run.validation for run in results([out])] == [0.5, 0.5]


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"lora": 20})
    for again in (out, tmp_path / "c/../c", out / "runs/lora-shots16-seed0"):
        with pytest.raises(
            UserError, match="lora-shots16-seed0 stands in the folders twice; name each comparison or run"
        ):
            report([out, again])
    assert not (out / "report.html").exists()


def test_texts_may_hold_every_line_separator_that_unicode_has(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "c", {"a": 30, "b": 20})
    rows = [{"text": f"one\u2028two\x85three\x0b\x1c{place}", "true": LABELS[place % 2]} for place in range(40)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "examples.jsonl").write_text(text, encoding="utf-8", newline="\n")
    path, _ = report([out])
    assert "one\u2028two\x85three" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("test.jsonl", lambda text: text.partition("\n")[2], "has 39 answers to the 40 test examples of run.json"),
        (
            "test.jsonl",
            lambda text: text.replace('"answer"', '"said"', 1),
            "has a line without an answer and its share",
        ),
        ("test.jsonl", lambda text: "[1]\n" + text, "has a line that is no JSON object"),
        ("history.jsonl", lambda text: text + '{"step": 3, "lo', "is not JSON lines"),
    ],
)
def test_a_run_whose_files_do_not_fit_is_refused_by_name_and_leaves_no_report(
    tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    out = _comparison(tmp_path / "c", {"a": 30, "b": 20})
    path = out / "runs/b-shots16-seed1" / file
    path.write_text(change(path.read_text()))
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match=re.escape(f"{path} {message}")):
        report([out])
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("run.json", {"config": {}}, "config.seed: field required"),
        ("run.json", {"timing": 3}, "timing: "),
        ("run.json", {"parameters": {"delta": "many"}}, "parameters.delta: "),
        ("run.json", {"test": {"metrics": {"accuracy": "0.5"}, "examples": 40, "data": "x"}}, "accuracy = '0.5'"),
        ("metrics.json", {"metrics": 3}, "metrics: "),
    ],
)
def test_a_record_of_another_shape_is_refused_with_its_place(
    file: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    out = _comparison(tmp_path / "compared", {"lora": 30})
    path = out / "runs/lora-shots16-seed0" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(said)) as error:
        report([out])
    assert str(path) in str(error.value)
    assert not (out / "report.html").exists()


def test_a_plan_of_another_shape_is_refused(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "compared", {"lora": 30})
    (out / "plan.json").write_text('{"names": 5}')
    with pytest.raises(UserError, match=r"plan\.json is not what a run leaves: names"):
        report([out])


def test_runs_that_were_planned_and_are_not_there_are_named(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "compared", {"lora": 30, "head": 20})
    names = [path.name for path in sorted((out / "runs").iterdir())]
    (out / "plan.json").write_text(json.dumps({"names": names}))
    assert "lacks" not in report([out])[1]
    (out / "runs" / names[0] / "run.json").unlink()
    path, said = report([out])
    assert f"lacks 1 of the 4 runs that it planned ({names[0]})" in said
    assert "lacks 1 of the 4" in path.read_text()


def test_a_tested_run_without_its_answers_is_refused(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "compared", {"lora": 30})
    (out / "runs/lora-shots16-seed0/test.jsonl").unlink()
    with pytest.raises(UserError, match="has 0 answers to the 40 test examples"):
        report([out])


def test_one_seed_has_no_deviation_in_any_of_the_tables(tmp_path: Path) -> None:
    out = _comparison(tmp_path / "compared", {"lora": 30, "head": 20}, seeds=1)
    page = report([out])[0].read_text()
    assert "± 0.000" not in page
    assert r"\pm" not in (out / "results.tex").read_text()
    assert "over their one pair (max-statistic)" in page


@pytest.mark.parametrize(("most", "labels"), [(90_000, "D2"), (200_000_000, 1)])
def test_counts_of_parameters_far_apart_are_labelled_at_whole_decades(
    most: int, labels: str | int, tmp_path: Path
) -> None:
    out = _comparison(tmp_path / "c", {"lora": 38, "head": 12})
    for path in out.glob("runs/lora-*/run.json"):
        record = json.loads(path.read_text())
        record["parameters"]["delta"] = most
        path.write_text(json.dumps(record))
    found = settings(results([out]))
    assert _figures.against_parameters(found, "accuracy", _figures.looks(found)).layout.xaxis.dtick == labels
