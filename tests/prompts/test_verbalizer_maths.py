"""What verbalizers compute, against numbers worked by hand."""

import math

import pytest
import torch
from torch.nn import functional

from graftlm.prompts import _interpolation
from graftlm.prompts.verbalizers import knowledgeable, likelihood, prototypical, soft

LOG = math.log


def exact(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_knowledgeable_score_is_the_mean_of_probabilities_over_priors() -> None:
    logits, priors = exact([[0.4, 0.1, 0.2]]).log(), exact([0.8, 0.1, 0.1]).log()
    members = torch.tensor([[True, True, False], [False, False, True]])
    found = knowledgeable.mean_score(knowledgeable.calibrated(logits, priors), members)
    torch.testing.assert_close(found.exp(), exact([[0.75, 2.0]]))
    shifted = knowledgeable.mean_score(knowledgeable.calibrated(logits + 3, priors), members)
    torch.testing.assert_close(shifted - found, torch.full((1, 2), 3.0, dtype=torch.float64))


def test_learned_weights_start_equal_and_weigh_the_logs() -> None:
    logits, members = exact([[1.0, 3.0, 5.0]]), torch.tensor([[True, True, False], [False, False, True]])
    torch.testing.assert_close(knowledgeable.weighted_score(logits, exact([0.0] * 3), members), exact([[2.0, 5.0]]))
    found = knowledgeable.weighted_score(logits, exact([LOG(3), 0.0, 9.0]), members)
    torch.testing.assert_close(found, exact([[1.5, 5.0]]))


def test_words_rarer_than_half_of_the_vocabulary_are_dropped() -> None:
    priors = knowledgeable.prior(exact([[0.1, 0.1, 0.3, 0.5], [0.1, 0.3, 0.3, 0.3]]).log())
    torch.testing.assert_close(priors.exp(), exact([0.1, 0.2, 0.3, 0.4]))
    assert knowledgeable.frequent(priors, [[0], [1], [2], [3, 0], [2, 3]], 0.5) == [False, False, True, False, True]
    assert all(knowledgeable.frequent(priors, [[0], [1]], 0.0))


def test_a_word_that_follows_another_label_is_of_no_relevance() -> None:
    first, second = exact([1.0, -1.0, 0.0, 0.0]), exact([0.0, 0.0, 1.0, -1.0])
    words = torch.stack([first, second, 2 * first + second, first + 2 * second, -first + second / 2], 1)
    found = knowledgeable.relevance(words + 4, torch.tensor([0, 1, 0, 0, 0]), torch.tensor([0, 1]))
    assert found[0] > 1e6
    assert found[2:].tolist() == pytest.approx([2.0, 0.5, -1.0])


def test_relevance_with_three_labels_takes_the_power_mean_of_the_others() -> None:
    names = torch.eye(6, dtype=torch.float64)[:3] - torch.eye(6, dtype=torch.float64)[3:]
    word = 3 * names[0] + 2 * names[1] + 1 * names[2]
    found = knowledgeable.relevance(torch.stack([*names, word], 1), torch.tensor([0, 1, 2, 0]), torch.arange(3))
    order = 10 / 1.01 + 1
    assert float(found[3]) == pytest.approx(3 / ((2**order + 1) / 2) ** (1 / order))


def test_a_label_vector_is_the_mean_of_its_words_rows() -> None:
    rows, owners = exact([[1.0, 2.0], [0.0, 1.0], [3.0, 4.0]]), torch.tensor([0, 1, 0])
    weight = soft.label_rows(rows, owners)
    torch.testing.assert_close(weight, exact([[2.0, 3.0], [0.0, 1.0]]))
    torch.testing.assert_close(soft.label_rows(rows[:, 0], owners), exact([2.0, 0.0]))
    states, bias = exact([[1.0, -1.0]]), exact([0.5, 0.0])
    torch.testing.assert_close(soft.class_scores(states, weight, bias), exact([[-0.5, -1.0]]))
    torch.testing.assert_close(soft.class_scores(states, weight), exact([[-1.0, -1.0]]))


def test_prototype_scores_are_cosines_of_projections() -> None:
    down, prototypes = exact([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), exact([[2.0, 0.0], [1.0, 1.0]])
    found = prototypical.prototype_scores(exact([[3.0, 4.0, 9.0]]), down, prototypes)
    torch.testing.assert_close(found, exact([[0.6, 1.4 / math.sqrt(2)]]))


def test_prototype_losses_are_those_of_the_stacked_sums() -> None:
    """The sums as they are written for equally many examples of each label: x (c k d)."""
    torch.manual_seed(1)
    stacked, prototypes = torch.randn(3, 2, 4).double(), torch.randn(3, 4).double()
    near = functional.cosine_similarity
    first = sum(
        -torch.log_softmax(near(stacked[label, place], prototypes), 0)[label]
        for label in range(3)
        for place in range(2)
    )
    second = 0.0
    for label in range(3):
        for a in range(2):
            for b in range(2):
                own = near(stacked[label, a], stacked[label, b], dim=0).exp()
                wrong = [label_j for label_j in range(3) if label_j != label]
                others = sum(near(stacked[j, k], stacked[label, b], dim=0).exp() for j in wrong for k in range(2))
                second = second - torch.log(own / (own + others))
    goals = torch.tensor([0, 0, 1, 1, 2, 2])
    flat = stacked.flatten(0, 1)
    torch.testing.assert_close(prototypical.prototype_loss(flat, prototypes, goals), first / (2 * 3 * 3))
    torch.testing.assert_close(prototypical.instance_loss(flat, goals), second / (2 * 3) ** 2)


def test_prototypes_are_fitted_to_unequal_labels() -> None:
    torch.manual_seed(0)
    goals = torch.tensor([0] * 7 + [1] * 2)
    states = torch.randn(9, 6) * 0.3 + torch.nn.functional.one_hot(goals * 3, 6) * 4
    down, prototypes = torch.randn(4, 6) * 0.3, torch.randn(2, 4)
    fit = prototypical.fitted(states, goals, down, prototypes, epochs=60, rate=0.05)
    assert prototypical.prototype_scores(states, *fit).argmax(1).tolist() == goals.tolist()
    assert not fit[0].requires_grad
    one = prototypical.fitted(states, goals, down, prototypes, epochs=1, rate=1e-3)
    assert float((one[0] - down).abs().max()) == pytest.approx(1e-3, rel=1e-2)


def test_two_sets_of_scores_are_averaged_after_each_is_standardised() -> None:
    found = prototypical.together(exact([[1.0, 3.0]]), exact([[50.0, 10.0]]))
    torch.testing.assert_close(found, exact([[0.0, 0.0]]))
    alone = prototypical.standardised(exact([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    torch.testing.assert_close(alone, exact([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def test_a_word_speaks_for_a_label_by_its_odds_there_against_elsewhere() -> None:
    log_probs = exact([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.1, 0.6, 0.3]]).log()
    goals = torch.tensor([0, 1, 1])
    found = likelihood.ratios(log_probs, goals, 0)
    expected = [0.0 - LOG(1 / 9), LOG(0.25) - LOG(1.5), 0.0]
    torch.testing.assert_close(found, exact(expected))
    torch.testing.assert_close(likelihood.ratios(log_probs, goals, 1)[0], exact(2 * LOG(1 / 9)))


def test_words_are_chosen_among_the_likeliest_that_are_allowed() -> None:
    log_probs = exact([[0.5, 0.2, 0.25, 0.05], [0.1, 0.6, 0.26, 0.04]]).log()
    goals, every = torch.tensor([0, 1]), torch.ones(4, dtype=torch.bool)
    assert likelihood.ranked(log_probs, goals, 0, 4, every) == [0, 3, 2, 1]
    assert likelihood.ranked(log_probs, goals, 0, 2, every) == [0, 2]
    assert likelihood.ranked(log_probs, goals, 0, 4, torch.tensor([False, True, True, True])) == [3, 2, 1]


def test_a_number_lies_between_two_words() -> None:
    logits, ends = exact([[0.0, LOG(3)], [0.0, 0.0]]), exact([1.0, 5.0])
    torch.testing.assert_close(_interpolation.interpolated(logits, ends), exact([4.0, 3.0]))
    found = _interpolation.mixture_loss(logits, exact([4.0, 5.0]), ends)
    torch.testing.assert_close(found, exact([0.0, LOG(2)]))


def test_between_several_words_it_is_a_mixture_of_the_two_nearest() -> None:
    found = _interpolation.mixture(exact([1.5, 5.0, 3.0, 9.0, -1.0]), exact([5.0, 1.0, 2.0]))
    expected = [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1 / 3, 0.0, 2 / 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    torch.testing.assert_close(found, exact(expected))
