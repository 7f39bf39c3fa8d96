import json
import math
import warnings

import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import Encoded, Problem, task

CLASSES, SCORES = task("classification"), task("regression")
LABELS = ("a", "b", "c", "d")


PROBLEM, NONE = Problem("classification", LABELS), Problem("regression")


def encoded(targets):
    """Examples with these answers, as far as a metric reads them."""
    whole = targets.dtype == torch.long
    examples = [Example("x", label=value) if whole else Example("x", score=value) for value in targets.tolist()]
    return Encoded(examples, [], range(len(examples)))


def sample(rows=200):
    return torch.randn(rows, 4), torch.randint(0, 4, (rows,))


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match='no task "clasification"; did you mean "classification"'):
        task("clasification")


@pytest.mark.parametrize("module", [CLASSES, SCORES])
def test_every_task_has_the_same_names_and_its_primary_metric_can_be_chosen(module):
    assert module.measures(PROBLEM)[0] not in module.LOWER_IS_BETTER
    assert set(module.LOWER_IS_BETTER) <= set(module.measures(PROBLEM))
    assert all(
        callable(getattr(module, name))
        for name in ("outputs", "goals", "loss", "decode", "metrics", "details", "tuned")
    )


def test_classification_metrics_are_scikit_learn_s():
    logits, targets = sample()
    predicted = logits.argmax(-1).numpy()
    found = CLASSES.metrics(logits, encoded(targets), PROBLEM)
    assert set(found) | {"loss"} == set(CLASSES.measures(PROBLEM))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert found["matthews"] == pytest.approx(sk.matthews_corrcoef(targets, predicted))


def test_a_split_of_one_class_has_its_metrics_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = CLASSES.metrics(torch.eye(4)[:1].repeat(3, 1), encoded(torch.zeros(3, dtype=torch.long)), PROBLEM)
    assert found == {"accuracy": 1.0, "macro_f1": 1.0, "matthews": 0.0}


def test_regression_metrics_are_scipy_s():
    logits, targets = torch.randn(200, 1), torch.randn(200).round(decimals=1)
    x, y = logits[:, 0].double().numpy(), targets.double().numpy()
    found = SCORES.metrics(logits, encoded(targets), NONE)
    assert set(found) | {"loss"} == set(SCORES.measures(NONE))
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(y, x))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, x))


def test_the_report_and_the_confusion_matrix_are_scikit_learn_s_and_hold_classes_that_do_not_occur():
    logits, targets = sample()
    targets = targets.clamp(max=2)
    predicted = logits.argmax(-1).numpy()
    details = CLASSES.details(logits, encoded(targets), PROBLEM)
    expected = sk.classification_report(
        targets, predicted, labels=range(4), target_names=LABELS, output_dict=True, zero_division=0
    )
    for row in details.per_class:
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert row[ours] == pytest.approx(expected[row["label"]][theirs])
    assert details.confusion == sk.confusion_matrix(targets, predicted, labels=range(4)).tolist()


def test_regression_metrics_take_scores_as_the_data_have_them():
    scores, given = [16777216.0, 16777217.0, 16777218.0, 16777219.0], [1.0, 3.0, 2.0, 4.0]
    found = SCORES.metrics(
        torch.tensor([given]).T, Encoded([Example("", score=score) for score in scores], [], []), NONE
    )
    assert found["spearman"] == pytest.approx(stats.spearmanr(scores, given).statistic)


def test_regression_has_no_classes_to_report():
    details = SCORES.details(torch.zeros(2, 1), encoded(torch.zeros(2)), NONE)
    assert not details.per_class
    assert not details.confusion


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fill", [0.0, 0.1, math.nan, math.inf])
def test_constant_and_broken_predictions_give_numbers_that_json_can_hold(fill):
    for module, logits, targets in (
        (CLASSES, torch.full((5, 4), fill), torch.tensor([0, 1, 2, 3, 0])),
        (SCORES, torch.full((5, 1), fill), torch.arange(5.0)),
    ):
        json.dumps(module.metrics(logits, encoded(targets), PROBLEM), allow_nan=False)
    found = SCORES.metrics(torch.full((5, 1), fill), encoded(torch.arange(5.0)), NONE)
    assert found["pearson"] == found["spearman"] == 0.0
    assert SCORES.metrics(torch.ones(1, 1), encoded(torch.ones(1)), NONE)["pearson"] == 0.0


def test_broken_logits_count_as_wrong_and_a_broken_error_as_the_worst():
    assert CLASSES.metrics(torch.full((3, 2), math.nan), encoded(torch.tensor([0, 1, 0])), PROBLEM)["accuracy"] == 0.0
    assert SCORES.metrics(torch.full((3, 1), math.nan), encoded(torch.arange(3.0)), NONE)["mse"] > 1e300


def test_losses_are_one_an_example_and_keep_the_gradient():
    logits, targets = sample(7)
    logits.requires_grad_()
    loss = CLASSES.loss(logits, targets)
    assert loss.shape == (7,)
    assert torch.allclose(loss, -logits.log_softmax(-1)[torch.arange(7), targets])
    assert loss.sum().backward() is None
    assert SCORES.loss(torch.tensor([[2.0], [0.5]]), torch.tensor([5.0, 0.5])).tolist() == [9.0, 0.0]


def test_predictions_are_said_by_name():
    (row,) = CLASSES.decode(
        torch.tensor([[0.0, math.log(3)]]), encoded(torch.tensor([0])), Problem("classification", ("no", "yes"))
    )
    assert row["label"] == "yes"
    assert row["probabilities"] == pytest.approx({"no": 0.25, "yes": 0.75})
    assert SCORES.decode(torch.tensor([[1.5], [2.0]]), encoded(torch.zeros(2)), NONE) == [
        {"score": 1.5},
        {"score": 2.0},
    ]


def test_a_target_is_the_label_or_the_score():
    assert CLASSES.goals(Encoded([Example("x", label=2)], [], [0])).tolist() == [2]
    assert SCORES.goals(Encoded([Example("x", score=0.5)], [], [0])).tolist() == [0.5]
    assert (CLASSES.outputs(PROBLEM), SCORES.outputs(NONE)) == (4, 1)
