"""Verbalizers made from words, a tokenizer and an LM head's rows: words that split, refusals, and what they give."""

from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from graftlm.core.errors import UserError
from graftlm.objectives import mlm
from graftlm.prompts import Verbalizer, parse
from graftlm.prompts._frame import frame_of
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._seen import Seen
from graftlm.prompts.verbalizers import knowledgeable, likelihood, manual, multi_mask, prototypical, soft
from graftlm.prompts.verbalizers._words import table_of, word_logits, words_of
from graftlm.sites import Sites
from graftlm.tasks import classification

PIECES = (
    "[UNK]",
    "[PAD]",
    "[MASK]",
    "good",
    "great",
    "fine",
    "bad",
    "awful",
    "poor",
    "won",
    "##der",
    "##ful",
    "9",
    "the",
)
PIECES += ("football", "bank")
PLACE = {piece: number for number, piece in enumerate(PIECES)}
LABELS = ("neg", "pos")


def tokenizer() -> Any:
    words = Tokenizer(models.WordPiece(dict(PLACE), unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


@cache
def lexicon() -> Lexicon:
    """Words at a mask that follows a space, and a tiny model's LM head."""
    template, words = parse("{text} It is {mask} ."), tokenizer()
    sites = Sites(tiny.model("bert", lm=True, vocab_size=len(PIECES)), words)
    return Lexicon(template, frame_of(words, sites), sites)


def made(module: Any, **options: Any) -> Verbalizer:
    return module.make(module.Options(**options), LABELS, lexicon())


def foreseen(own: Verbalizer, states: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """States (b 1 d), the scores of their labels, and the run's tensors as they start."""
    if states is None:
        states = torch.randn(4, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    weight, bias = lexicon().rows(own.rows)
    params = {name: param.init(torch.Generator().manual_seed(2)) for name, param in own.params.items()}
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        name: param.shape for name, param in own.params.items()
    }
    logits = states @ weight.T + (0 if bias is None else bias)
    return states, own.scores(states[:, None], logits[:, None], params), params


def of(states: torch.Tensor, *words: str, biased: bool = True) -> torch.Tensor:
    """The mean logit (b) of some tokens."""
    weight, bias = lexicon().rows(torch.tensor([PLACE[word] for word in words]))
    assert bias is not None
    return (states @ weight.T + bias * biased).mean(1)


def looked(labels: int = 2, count: int = 24) -> Seen:
    """Examples of labels whose masks foresee the words 3 to 5, or 6 to 8, more or less."""
    generator = torch.Generator().manual_seed(3)
    goals = torch.arange(count) % labels
    logits = torch.randn(count, len(PIECES), generator=generator) * 0.3
    for label in range(labels):
        logits[goals == label, 3 + 3 * label : 6 + 3 * label] += torch.tensor([4.0, 3.0, 2.0])
    states = (
        torch.nn.functional.one_hot(goals, tiny.WIDTH) * 3 + torch.randn(count, tiny.WIDTH, generator=generator) * 0.3
    )
    return Seen(states, logits, goals)


def test_a_word_of_several_tokens_is_refused_by_name_unless_a_rule_takes_it() -> None:
    words = {"neg": ["bad"], "pos": ["good", "wonderful"]}
    with pytest.raises(UserError, match=r'"wonderful" is 3 tokens \(won, ##der, ##ful\), and a mask is one; .* drop'):
        words_of(words, LABELS, lexicon(), "refuse")
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0, 1.0]])  # good bad won ##der ##ful
    for rule, expected in (("first", 4.0), ("mean", 13 / 3), ("max", 8.0)):
        table = table_of(words_of(words, LABELS, lexicon(), rule), 2, rule)
        found = word_logits(logits[:, : len(table.rows)], table.places, rule)
        assert found.tolist() == [[2.0, 1.0, pytest.approx(expected)]]
        assert table.shares.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    assert [word.text for word in words_of(words, LABELS, lexicon(), "drop")] == ["bad", "good"]
    with pytest.raises(UserError, match='"pos" has no word of one token'):
        words_of({"neg": ["bad"], "pos": ["wonderful"]}, LABELS, lexicon(), "drop")


@pytest.mark.parametrize("rule", ["refuse", "first", "mean", "max", "drop"])
def test_a_word_that_the_tokenizer_has_no_token_for_is_refused_by_name(rule: Any) -> None:
    with pytest.raises(UserError, match='the word "ärger" is not in the vocabulary'):
        words_of({"neg": ["ärger"], "pos": ["good"]}, LABELS, lexicon(), rule)


@pytest.mark.parametrize("variant", ["warp", "openprompt"])
def test_a_fresh_soft_verbalizer_scores_as_its_words_do(variant: Any) -> None:
    own = made(soft, words={"neg": ["bad", "poor"], "pos": "wonderful"}, variant=variant)
    states, found, _ = foreseen(own)
    biased = variant == "warp"
    torch.testing.assert_close(found[:, 0], of(states, "bad", "poor", biased=biased))
    torch.testing.assert_close(found[:, 1], of(states, "won", "##der", "##ful", biased=biased))
    assert sum(param.count for param in own.params.values()) == 2 * tiny.WIDTH + 2 * biased


def test_a_knowledgeable_run_keeps_frequent_and_relevant_words_and_their_priors() -> None:
    words = {"neg": ("good", "great", "9", "bad"), "pos": ("bad", "awful", "fine", "wonderful")}
    options = knowledgeable.resolved(knowledgeable.Options(words=words), LABELS, lexicon(), looked())
    assert options.words == {"neg": ("good", "great"), "pos": ("bad", "awful")}
    assert knowledgeable.resolved(options, LABELS, lexicon(), looked()) is options
    assert len(options.priors) == 4
    plain = knowledgeable.Options(words=words, relevance=False, quantile=0.0)
    assert knowledgeable.resolved(plain, LABELS, lexicon(), looked()).words == words


@pytest.mark.parametrize("weights", ["mean", "learned"])
def test_a_knowledgeable_verbalizer_is_made_again_without_examples(weights: Any) -> None:
    words = {"neg": "bad", "pos": ["good", "great"]}
    own = made(knowledgeable, words=words, weights=weights, priors=(-1.0, -2.0, -3.0))
    states, found, _ = foreseen(own)
    torch.testing.assert_close(found[:, 0], of(states, "bad") + 1)
    each = torch.stack([of(states, "good") + 2, of(states, "great") + 3])
    expected = each.exp().mean(0).log() if weights == "mean" else each.mean(0)
    torch.testing.assert_close(found[:, 1], expected)
    assert own.rate == (0.06 if weights == "learned" else None)
    assert (
        knowledgeable.Options.parse({key: value for key, value in own.config.items() if key != "name"}).weights
        == weights
    )
    with pytest.raises(UserError, match="priors has 2 numbers for 3 words"):
        made(knowledgeable, words=words, priors=(-1.0, -2.0))


def test_prototypes_start_fitted_and_words_are_averaged_in() -> None:
    options = prototypical.Options(width=4, epochs=50, rate=0.05)
    own, seen = prototypical.make(options, LABELS, lexicon()), looked()
    fresh = foreseen(own)[2]
    fit = prototypical.started(options, fresh, seen)
    found = own.scores(seen.states[:, None], torch.zeros(24, 1, 0), fit)
    assert found.argmax(1).tolist() == seen.goals.tolist()
    states, found, params = foreseen(made(prototypical, words={"neg": "good", "pos": "bad"}, width=4))
    words = torch.stack([of(states, "good"), of(states, "bad")], 1)
    near = prototypical.prototype_scores(states, params["down"], params["prototypes"])
    torch.testing.assert_close(found, prototypical.together(words, near))
    with pytest.raises(UserError, match="two labels"):
        prototypical.started(options, fresh, looked(labels=1))


def test_words_are_found_by_likelihood_and_pieces_are_no_words() -> None:
    options = likelihood.resolved(likelihood.Options(count=2), LABELS, lexicon(), looked())
    assert options.words == {"neg": ("good", "great"), "pos": ("bad", "awful")}
    assert likelihood.resolved(options, LABELS, lexicon(), looked()) is options
    states, found, _ = foreseen(likelihood.make(options, LABELS, lexicon()))
    torch.testing.assert_close(found[:, 1], of(states, "bad", "awful"))
    every = likelihood.resolved(likelihood.Options(count=99), LABELS, lexicon(), looked()).words["pos"]
    assert sorted(every) == sorted(set(PIECES[3:]) - {"##der", "##ful", "9"})
    with pytest.raises(UserError, match='no training example has label "pos"'):
        likelihood.resolved(likelihood.Options(), LABELS, lexicon(), looked(labels=1))


def test_plain_words_give_the_mean_of_their_logits_and_its_loss() -> None:
    """A vocabulary of five, whose words 2 and 4 are the first label's and 3 the second's."""
    logits = torch.tensor([[0.0, 2.0, 4.0, 1.0, 3.0]], dtype=torch.float64)
    own = made(manual, words={"neg": ["good", "bad"], "pos": "great"})
    places = {"good": 2, "bad": 4, "great": 3}
    rows = logits[:, [places[PIECES[row]] for row in own.rows.tolist()]]
    found = own.scores(torch.zeros(1, 1, 1), rows[:, None], {})
    assert found.tolist() == [[3.5, 1.0]]
    assert float(found.softmax(-1)[0, 0]) == pytest.approx(0.9241, abs=1e-4)
    loss = classification.loss(found, torch.tensor([0]))
    assert float(loss) == pytest.approx(0.078890, abs=1e-6)
    assert float(mlm.beside(loss, torch.tensor([2.0], dtype=torch.float64), 1e-4)) == pytest.approx(0.079082, abs=1e-6)


@pytest.mark.parametrize("rule", ["first", "mean", "max", "drop"])
def test_what_a_rule_makes_of_words_is_said(rule: str) -> None:
    own = made(prototypical, words={"neg": "bad", "pos": ["good", "wonderful"]}, several=rule)
    (note,) = own.notes
    assert note.startswith("1 word is of several tokens, and ")
    assert note.endswith(f"(several = {rule}): wonderful")
    assert made(prototypical, words={"neg": "bad", "pos": "good"}, several=rule).notes == ()


def test_a_vector_that_starts_from_several_tokens_says_so() -> None:
    own = made(soft, words={"neg": "bad", "pos": ["good", "wonderful"]})
    assert own.notes == ("1 word is of several tokens, and a vector starts from the rows of them all: wonderful",)
    assert made(soft, words={"neg": "bad", "pos": "good"}).notes == ()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (manual, {"words": {"neg": "good", "pos": "good"}}),
        (manual, {"words": {"neg": ["wonder", "good"], "pos": ["good", "wonful"]}, "several": "first"}),
        (multi_mask, {"words": {"neg": "wonder", "pos": "wonder"}}),
        (knowledgeable, {"words": {"neg": ["good", "fine"], "pos": ["fine", "good"]}, "weights": "mean"}),
    ],
)
def test_labels_with_the_same_words_are_refused_by_name(module: Any, options: Any) -> None:
    with pytest.raises(UserError, match='the labels "neg" and "pos" have the same words'):
        made(module, **options)


def test_labels_that_share_some_of_their_words_are_taken() -> None:
    assert len(made(manual, words={"neg": ["bad", "fine"], "pos": ["good", "fine"]}).rows) == 3
