"""Several labels for a text, and classes with an order."""

import math

import pytest
import torch
from sklearn import metrics as sk

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import Encoded, load, parse, read_texts, task

MANY, ORDINAL = task("multilabel"), task("ordinal")
LABELS = ("a", "b", "c")


def several(labels=LABELS, tuned=None, **options):
    return parse(options, "multilabel", labels, tuned)


def ranked(labels=("1", "2", "3", "4"), **options):
    return parse(options, "ordinal", labels)


def encoded(answers):
    return Encoded([Example("x", answer=tuple(map(float, row))) for row in answers], [], range(len(answers)))


def classes(indices):
    return Encoded([Example("x", label=index) for index in indices], [], range(len(indices)))


ROWS = [{"text": "x", "labels": ["b", "a"]}, {"text": "y", "labels": []}, {"text": "z", "labels": ["c", "c"]}]


def test_lists_of_labels_are_read(folder):
    data = load(DataConfig(path=folder(train=ROWS)), "multilabel", splits=("train",))
    assert data.labels == LABELS
    assert [example.answer for example in data.splits["train"]] == [(1, 1, 0), (0, 0, 0), (0, 0, 1)]


def test_labels_may_stand_in_a_string_between_commas(write):
    path = write("train.csv", 'text,labels\nx,"b, a"\ny,\nz,c\n')
    data = load(DataConfig(path=str(path)), "multilabel", splits=("train",))
    assert [example.answer for example in data.splits["train"]] == [(1, 1, 0), (0, 0, 0), (0, 0, 1)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x", "labels": None}, "labels is missing"),
        ({"text": "x", "labels": 3}, "labels is 3, not a list"),
        ({"text": "x", "labels": ["a", ""]}, r'labels\[1\] is "", not a string'),
        ({"text": None, "labels": ["a"]}, "text is missing"),
        ({"text": "x", "labels": [0, 1, 0]}, r"labels is \[0, 1, 0\], a mark for each label; write the labels"),
        ({"text": "x", "labels": "0, 1,0"}, 'labels is "0, 1,0", a mark for each label'),
        ({"text": "x", "labels": "['x' 'y']"}, r"labels is \"\['x' 'y'\]\", no list in JSON"),
        ({"text": "x", "labels": "[x, y]"}, r'labels is "\[x, y\]", no list in JSON or as Python writes it'),
        ({"text": "x", "labels": ["\ud83d"]}, r"labels\[0\] holds half a surrogate pair"),
    ],
)
def test_bad_labels_are_an_error_with_their_line_or_left_out(folder, row, said):
    path = folder(train=[*ROWS, row])
    with pytest.raises(UserError, match=f"line 4: {said}"):
        load(DataConfig(path=path), "multilabel", splits=("train",))
    data = load(DataConfig(path=path, skip_bad=True), "multilabel", splits=("train",))
    assert len(data.splits["train"]) == 3


@pytest.mark.parametrize("cells", [([0, 1], [1, 0]), ("0,1", "1,0")])
def test_lists_of_0_and_1_in_every_row_are_marks_and_in_some_they_are_labels(folder, cells):
    rows = [{"text": "x", "labels": cell} for cell in cells]
    with pytest.raises(UserError, match=r"line 1: labels is .*, a mark for each label"):
        load(DataConfig(path=folder(train=rows)), "multilabel", splits=("train",))
    data = load(DataConfig(path=folder(train=[*rows, {"text": "y", "labels": [0]}])), "multilabel", splits=("train",))
    assert [example.answer for example in data.splits["train"]] == [(1, 1), (1, 1), (1, 0)]


def test_a_label_unknown_to_the_run_is_an_error(folder):
    with pytest.raises(UserError, match='line 3: label "c" is not among the known ones: a, b'):
        load(DataConfig(path=folder(test=ROWS)), "multilabel", splits=("test",), labels=("a", "b"))


def test_columns_of_0_and_1_are_labels_where_they_are_named(write):
    path = str(write("train.csv", "comment,rude,late,mild\nx,1,0,true\ny,0,0,False\nz,0,1.0,0\n"))
    problem = several((), label_columns=["late", "rude"])
    data = load(DataConfig(path=path, columns={"text": "comment"}), problem, splits=("train",))
    assert data.labels == ("late", "rude")
    assert [example.answer for example in data.splits["train"]] == [(0, 1), (0, 0), (1, 0)]
    wrong = str(write("wrong.csv", "text,rude\nx,1\ny,2\n"))
    with pytest.raises(UserError, match=r"line 3: rude is (2|\"2\"), not 0 or 1"):
        load(DataConfig(path=wrong), several((), label_columns=["rude"]), splits=("train",))
    with pytest.raises(UserError, match='no column "kind"'):
        load(DataConfig(path=wrong), several((), label_columns=["kind"]), splits=("train",))
    with pytest.raises(UserError, match=r'label_columns.*"rude" stands twice'):
        several((), label_columns=["rude", "late", "rude"])


def test_texts_to_predict_need_no_labels(write):
    examples = read_texts(write("x.jsonl", [{"sentence1": "p", "sentence2": "q"}]), task="multilabel")
    assert [(example.text, example.text_pair) for example in examples] == [("p", "q")]


def test_the_metrics_of_labels_are_scikit_learn_s():
    logits, true = torch.randn(50, 3), (torch.rand(50, 3) < 0.4).int()
    found = MANY.metrics(logits, encoded(true.tolist()), several())
    given = (logits >= 0).int().numpy()
    assert found["micro_f1"] == pytest.approx(sk.f1_score(true, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(true, given, average="macro"))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, given))
    assert found["hamming"] == pytest.approx(sk.hamming_loss(true, given))
    assert set(found) | {"loss"} == set(MANY.measures(several()))
    assert [row["label"] for row in MANY.details(logits, encoded(true.tolist()), several()).per_class] == list(LABELS)


def test_the_metrics_of_one_label_alone_are_those_of_that_label():
    true, given = [[1], [0], [0], [1], [1]], [1, 0, 1, 0, 1]
    logits = torch.tensor([[1.0 if each else -1.0] for each in given])
    found = MANY.metrics(logits, encoded(true), several(("a",)))
    f1 = sk.f1_score([row[0] for row in true], given)
    assert (found["micro_f1"], found["macro_f1"]) == (pytest.approx(f1), pytest.approx(f1))
    (row,) = MANY.details(logits, encoded(true), several(("a",))).per_class
    assert row == {"label": "a", "precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(f1), "support": 3}


def test_thresholds_are_tuned_and_no_other_gives_a_better_f1():
    torch.manual_seed(1)
    logits, true = torch.randn(80, 3) - 2, (torch.rand(80, 3) < 0.3).int()
    true[:, 2] = 0
    tuned = MANY.tuned(logits, encoded(true.tolist()), several())
    assert tuned.tuned["c"] == 0.5
    scores = logits.double().sigmoid()
    for place, label in enumerate("ab"):
        best = sk.f1_score(true[:, place], scores[:, place] >= tuned.tuned[label])
        others = [sk.f1_score(true[:, place], scores[:, place] >= edge) for edge in scores[:, place].tolist()]
        assert best == pytest.approx(max(others))
    (answer,) = MANY.decode(torch.tensor([[0.0, 0.0, 0.0]]), encoded([(0, 0, 0)]), several(tuned={"a": 0.6, "b": 0.4}))
    assert answer["labels"] == ["b", "c"]
    fixed = several(threshold=0.9)
    assert MANY.tuned(logits, encoded(true.tolist()), fixed) is fixed
    assert MANY.decode(torch.tensor([[2.0, 3.0, 0.0]]), encoded([(0, 0, 0)]), fixed)[0]["labels"] == ["b"]


def test_the_loss_of_labels_is_the_mean_cross_entropy():
    loss = MANY.loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert loss.tolist() == pytest.approx([math.log(2)])


STARS = [{"text": "x", "stars": stars} for stars in (10, 2, 9)]


def test_whole_numbers_are_ordered_as_numbers_and_names_by_option(folder):
    data = load(DataConfig(path=folder(train=STARS)), "ordinal", splits=("train",))
    assert data.labels == ("2", "9", "10")
    assert data.notes[1] == "order: 2 < 9 < 10"
    names = folder(train=[{"text": "x", "label": label} for label in ("good", "bad", "fair")])
    with pytest.raises(UserError, match='line 1: label is "good", and the order of names is not known; say it, as -o'):
        load(DataConfig(path=names), "ordinal", splits=("train",))
    given = load(DataConfig(path=names), ranked(order=["bad", "fair", "good"]), splits=("train",))
    assert [example.label for example in given.splits["train"]] == [2, 0, 1]


def test_the_probabilities_of_ordered_classes_add_up_and_the_loss_is_their_likelihood():
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, 0.5]])
    rows = MANY and [
        list(answer["probabilities"].values()) for answer in ORDINAL.decode(logits, classes([0, 0]), ranked())
    ]
    assert rows[0] == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert sum(rows[1]) == pytest.approx(1)
    for index in range(4):
        loss = ORDINAL.loss(logits, torch.tensor([index, index]))
        assert loss.tolist() == pytest.approx([-math.log(row[index]) for row in rows], rel=1e-5)
    assert ORDINAL.outputs(ranked()) == 3


def test_the_class_in_the_middle_is_given_and_the_metrics_are_scikit_learn_s():
    logits = torch.randn(60, 3) * 3
    true = torch.randint(0, 4, (60,)).tolist()
    answers = ORDINAL.decode(logits, classes(true), ranked())
    given = [int(answer["label"]) - 1 for answer in answers]
    for answer, place in zip(answers, given, strict=True):
        below = list(answer["probabilities"].values())
        assert sum(below[:place]) <= 0.5 <= sum(below[: place + 1]) + 1e-9
    found = ORDINAL.metrics(logits, classes(true), ranked())
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(true, given, weights="quadratic"))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, given))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, given))
    details = ORDINAL.details(logits, classes(true), ranked())
    assert details.confusion == sk.confusion_matrix(true, given, labels=range(4)).tolist()
    assert ORDINAL.metrics(torch.full((2, 3), -9.0), classes([0, 0]), ranked())["kappa"] == 0.0


def test_a_class_that_no_example_has_is_a_step_of_kappa_all_the_same():
    true, steps = [0, 1, 3, 0, 3, 1], [0, 3, 3, 0, 1, 1]  # of four classes one is neither true nor given
    logits = torch.tensor([[9.0 if place < step else -9.0 for place in range(3)] for step in steps])
    weights = sk.cohen_kappa_score(true, steps, weights="quadratic", labels=range(4))
    assert ORDINAL.metrics(logits, classes(true), ranked())["kappa"] == pytest.approx(weights)
    assert weights != pytest.approx(sk.cohen_kappa_score(true, steps, weights="quadratic"))


@pytest.mark.parametrize(("order", "said"), [(["a", "b", "a"], '"a" stands twice'), (["a"], "two classes or more")])
def test_an_order_has_each_class_once_and_two_of_them(order, said):
    with pytest.raises(UserError, match=said):
        ranked(order=order)


def test_texts_to_predict_are_those_that_columns_name_and_are_not_marked(write):
    path = write("rows.jsonl", [{"body": "this", "text": "that"}])
    assert [example.text for example in read_texts(path, {"text": "body", "label": "gone"}, task="ordinal")] == ["this"]
    with pytest.raises(UserError, match='no column "boddy"; did you mean "body"'):
        read_texts(path, {"text": "boddy"}, task="ordinal")
    for name in ("ordinal", "multilabel", "matching"):
        with pytest.raises(UserError, match=f'the task "{name}" has no mark'):
            read_texts(path, None, ("head", "tail"), name)


def test_an_order_may_be_given_in_whole_numbers():
    assert ranked((), order=[1, 2, 10]).options.order == ("1", "2", "10")
