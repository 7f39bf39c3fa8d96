"""Matching: vectors of two sides on tiny models of each kind, learned by contrast, ranked, and counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score

import graftlm
import tiny
from folders import saved, write
from graftlm.checkpoint import load_base
from graftlm.core.example import Example
from graftlm.core.reporter import Silent
from graftlm.core.settings import DataConfig, HeadConfig
from graftlm.methods import parse as method_of
from graftlm.recipes._building import build
from graftlm.tasks import Encoded, Features, load, parse, read_candidates, task
from reliability.runs import Killed, Killing, left
from test_task_families import METHODS, words

SHORT = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
CASES = [("bert", "lora"), ("bert", "full"), ("gpt2", "prefix"), ("llama", "prompt-tuning"), ("t5", "adapter")]
CASES += [("bart", "bitfit"), ("bert", "unipelt")]


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": row,
            "query": " ".join(words(row, 3 + row % 3)),
            "document": " ".join(words(row + 50 * (row % 4 > 0), 5 + row % 4)),
            "negatives": [" ".join(words(row + 90, 4)), " ".join(words(row + 95, 3))][: row % 3],
        }
        for row in range(count)
    ]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_matcher_is_trained_stored_and_asked_again(family: str, method: str, tmp_path: Path) -> None:
    model = saved(tiny.model(family), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    own = {"name": "matching", "negatives": 2}
    run = graftlm.fit(model=model, task=own, data=data, method=METHODS[method], out=tmp_path / "run", training=SHORT)
    again = graftlm.evaluate(tmp_path / "run", data["path"], "validation", predict=True)
    assert again.metrics == pytest.approx(run.metrics, abs=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    predictor = graftlm.load(tmp_path / "run")
    texts = [row["query"] for row in pairs(20)]
    (alone,) = predictor.predict([texts[0]])
    assert min(max(abs(a - b) for a, b in zip(alone["vector"], row["vector"], strict=True)) for row in rows) < 2
    (ranked,) = predictor.rank([texts[3]], [Example(text, id=str(place)) for place, text in enumerate(texts)], 2)
    assert (ranked["best"][0]["text"], ranked["best"][0]["id"]) == (texts[3], "3")
    assert ranked["best"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(ranked["best"]) == 2
    assert (predictor.rank(texts[:1], []), predictor.rank([], texts)) == ([{"best": []}], [])
    wrong: list[tuple[Any, Any, int, str]] = [
        (texts, texts, 0, "top = 0; 1 is the fewest"),
        ("w1 w2", texts, 10, "put the one text of queries into a list"),
        (texts, "w1 w2", 10, "put the one text of candidates into a list"),
    ]
    for queries, candidates, top, said in wrong:
        with pytest.raises(graftlm.UserError, match=said):
            predictor.rank(queries, candidates, top)


def test_the_loss_is_cross_entropy_over_the_batchs_documents_but_for_the_same_text() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 3, 4), dim=-1)
    names = torch.tensor([[0, 1], [2, -1], [0, 3]])  # the third query's document has the first one's text
    options = parse({"temperature": 0.5}, "matching").options
    found = task("matching").loss(vectors, names, options)
    documents = {(row, place): vectors[row, place + 1] for row in range(3) for place in range(2)}
    allowed = {0: [(0, 0), (0, 1), (1, 0), (2, 1)], 1: [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]}
    allowed[2] = [(2, 0), (0, 1), (1, 0), (2, 1)]
    for row, own in allowed.items():
        scores = torch.stack([vectors[row, 0] @ documents[each] / 0.5 for each in own])
        expected = torch.logsumexp(scores, 0) - vectors[row, 0] @ vectors[row, 1] / 0.5
        assert found[row] == pytest.approx(float(expected), abs=1e-5)


def test_ranks_are_counted_over_all_documents_and_ties_stand_behind_wrong_ones() -> None:
    examples = [Example(text, answer=(document,)) for text, document in (("a", "x"), ("b", "y"), ("a", "z"))]
    encoded = Encoded(examples, [Features([1], None)] * 3, range(3))
    eye = torch.eye(3)
    vectors = torch.stack([torch.stack([eye[0], eye[0]]), torch.stack([eye[0], eye[1]]), torch.stack([eye[0], eye[2]])])
    found = task("matching").metrics(vectors, encoded, parse({}, "matching"))
    # "a" has x (score 1) and z (0, behind y, which ties); "b" has y (0, behind x and z)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert found["recall@1"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert found["recall@5"] == 1
    scores, right = torch.randn(6, 9), torch.eye(6, 9)
    both = [torch.stack([torch.cat([row, torch.zeros(9)]), torch.zeros(18)]) for row in scores]
    for place in range(6):
        both[place][1, place] = 1
    wide = [Example(str(place), answer=(f"d{place}",)) for place in range(6)]
    value = task("matching").metrics(torch.stack(both), Encoded(wide, [], range(6)), parse({}, "matching"))
    expected = label_ranking_average_precision_score(right[:, :6].numpy(), scores[:, :6].numpy())
    assert value["mrr@10"] == pytest.approx(expected)


def test_runs_in_one_pass_have_their_own_rows_as_negatives(tmp_path: Path) -> None:
    folder = saved(tiny.model("bert"), tmp_path / "base")
    kinds = ("lora", "prompt-tuning", "prefix")
    data = load(DataConfig(path=write(tmp_path / "rows.jsonl", pairs(12))), parse({"negatives": 2}, "matching"))

    def made(names: tuple[str, ...]) -> Any:
        methods = {name: method_of(name, {k: v for k, v in METHODS[name].items() if k != "name"}) for name in names}
        problem = parse({"negatives": 2}, "matching")
        built = build(load_base(folder), methods, HeadConfig(), problem, dict.fromkeys(names, 7))
        tiny.randomise_runs(built.attached)
        return built

    together = made(kinds)
    encoded = together.encode(data.splits["train"], "prefix")
    goals = together.task.goals(encoded)
    rows = {"lora": [0, 3, 5, 2], "prompt-tuning": [1, 4], "prefix": [6, 7, 8]}
    everyone = dict.fromkeys(kinds, encoded.rows)
    losses = together.losses(rows, dict.fromkeys(kinds, 1), everyone, dict.fromkeys(kinds, goals))
    for name in kinds:
        single = made((name,))
        for own, value in single.attached.parameters_of(name).items():
            value.data.copy_(together.attached.parameters_of(name)[own])
        loss = single.losses({name: rows[name]}, {name: 1}, {name: encoded.rows}, {name: goals})
        assert torch.allclose(loss[name], losses[name], atol=1e-4)
        one, many = (it.logits(encoded.rows, name, size, Silent(), "") for it, size in ((single, 1), (together, 12)))
        assert torch.allclose(one, many, atol=1e-5)


def test_a_matcher_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    data = {"path": write(tmp_path / "rows.jsonl", pairs(20)), "split": {"train": 0.6, "validation": 0.4}}
    training = {**SHORT, "max_steps": 6, "eval_steps": 2, "save_steps": 1}
    method = {**METHODS["lora"], "dropout": 0.2}
    given = {"model": model, "task": "matching", "data": data, "method": method, "training": training}
    graftlm.fit(**given, out=tmp_path / "whole")
    with pytest.raises(Killed):
        graftlm.fit(**given, out=tmp_path / "killed", reporter=Killing(3))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_what_cannot_be_matched_is_refused_by_name(tmp_path: Path) -> None:
    model = saved(tiny.model("bert"), tmp_path / "base")
    bad = pairs(10)
    bad[2]["document"] = " "
    data = {"path": write(tmp_path / "rows.jsonl", bad), "split": {"train": 0.6, "validation": 0.4}}
    right = {"model": model, "task": "matching", "data": data, "method": "lora"}
    good = {**data, "skip_bad": True}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "line 3: document is blank"),
        ({"data": good, "method": "head"}, "would train nothing"),
        ({"data": good, "head": {"pooling": "virtual"}}, "head.pooling may be mean, first or last"),
        ({"data": {**good, "columns": {"negatives": "none"}}}, 'no column "none"'),
        ({"data": {**good, "columns": {"negatives": "negatives"}}}, "but no negatives are taken; -o task.negatives=N"),
    ]
    for number, (wrong, words_of_it) in enumerate(cases):
        with pytest.raises(graftlm.UserError, match=words_of_it):
            graftlm.fit(**{**right, **wrong}, out=tmp_path / f"run{number}", training=SHORT)
    graftlm.fit(**{**right, "data": good}, out=tmp_path / "run", training=SHORT)
    with pytest.raises(graftlm.UserError, match="no words for the head of matching"):
        graftlm.export_peft(tmp_path / "run", tmp_path / "exported")


@pytest.mark.parametrize("cell", ["['x', 'y', 'z']", '["x", "y"]', ["x", "y"]])
def test_negatives_are_read_in_the_forms_that_lists_have(cell: Any, tmp_path: Path) -> None:
    if isinstance(cell, str):
        cell = cell.replace('"', '""')
        path = tmp_path / "rows.csv"
        path.write_text(f'query,document,negatives\nq,d,"{cell}"\n')
    else:
        path = Path(write(tmp_path / "rows.jsonl", [{"query": "q", "document": "d", "negatives": cell}]))
    (example,) = load(DataConfig(path=str(path)), parse({"negatives": 2}, "matching"), ("train",)).splits["train"]
    assert example.answer == ("d", "x", "y")


@pytest.mark.parametrize(
    ("cell", "said"), [(" ", "negatives is blank"), (["\ud83d"], r"negatives\[0\] holds half a surrogate")]
)
def test_negatives_that_are_no_texts_are_refused(cell: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"query": "q", "document": "d", "negatives": cell}])
    with pytest.raises(graftlm.UserError, match=f"line 1: {said}"):
        load(DataConfig(path=path), parse({"negatives": 2}, "matching"), ("train",))


def test_candidates_are_the_documents_of_a_file_and_not_its_queries(tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    file.write_text('{"question": "why?", "answer": "so"}\n{"question": "who?", "answer": "he", "id": 7}\n')
    assert [(one.text, one.id) for one in read_candidates(file)] == [("so", None), ("he", "7")]
    file.write_text('{"text": "only", "other": "no"}\n')
    assert [one.text for one in read_candidates(file)] == ["only"]
    assert [one.text for one in read_candidates(file, {"query": "gone", "document": "other"})] == ["no"]
    assert [one.text for one in read_candidates(file, {"document": "gone"}, stored=True)] == ["only"]
    with pytest.raises(graftlm.UserError, match='no column "othr"; did you mean "other"'):
        read_candidates(file, {"document": "othr"})
