"""Verbalizers made from words, a tokenizer and an LM head's rows: words that split, refusals, and what they give."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import UserError
from graftlm.prompts.verbalizers import interpolation, knowledgeable, likelihood, prototypical, soft
from graftlm.prompts.verbalizers._verbalizer import Given, Seen, Verbalizer
from graftlm.prompts.verbalizers._words import table_of, tokens_of, word_logits, words_of

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
WIDTH = 5


def tokenizer() -> Any:
    words = Tokenizer(models.WordPiece(dict(PLACE), unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def given(labels: Sequence[str] = ("neg", "pos"), seen: Seen | None = None) -> Given:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(PIECES), WIDTH, generator=generator)
    return Given(labels, tokenizer(), rows, torch.randn(len(PIECES), generator=generator), seen)


def foreseen(
    own: Given, made: Verbalizer, count: int = 4
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """States (1 b d), logits (1 b r) and the run's tensors as they start (1 …)."""
    states = torch.randn(1, count, WIDTH, generator=torch.Generator().manual_seed(1))
    assert own.bias is not None
    logits = states @ own.rows[made.rows].T + own.bias[made.rows]
    params = {name: param.init(torch.Generator().manual_seed(2))[None] for name, param in made.params.items()}
    assert {name: tuple(value.shape[1:]) for name, value in params.items()} == {
        name: param.shape for name, param in made.params.items()
    }
    return states, logits, params


def of(own: Given, states: torch.Tensor, *words: str) -> torch.Tensor:
    """The mean logit (b) of some words, read off all logits."""
    assert own.bias is not None
    return (states[0] @ own.rows.T + own.bias)[:, [PLACE[word] for word in words]].mean(1)


def test_a_word_that_splits_is_refused_by_name_unless_a_rule_takes_it() -> None:
    words = {"neg": ["bad"], "pos": ["good", "wonderful"]}
    with pytest.raises(UserError, match=r'"wonderful" of label "pos" is 3 tokens, won ##der ##ful; verbalizer.split'):
        words_of(words, ["neg", "pos"], tokenizer(), "refuse")
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0, 1.0]])  # good bad won ##der ##ful
    for split, expected in (("first", 4.0), ("mean", 13 / 3), ("max", 8.0)):
        table = table_of(words_of(words, ["neg", "pos"], tokenizer(), split), 2, split)
        found = word_logits(logits[:, : len(table.rows)], table.places, split)
        assert found.tolist() == [[2.0, 1.0, pytest.approx(expected)]]
        assert table.members.tolist() == [[True, False, False], [False, True, True]]
    assert [word.text for word in words_of(words, ["neg", "pos"], tokenizer(), "drop")] == ["bad", "good"]
    with pytest.raises(UserError, match='each word of "pos" is several tokens'):
        words_of({"neg": ["bad"], "pos": ["wonderful"]}, ["neg", "pos"], tokenizer(), "drop")


@pytest.mark.parametrize("split", ["refuse", "first", "mean", "max", "drop"])
def test_a_word_that_the_tokenizer_has_no_token_for_is_refused_by_name(split: Any) -> None:
    with pytest.raises(UserError, match='has no token for the word "ärger" of label "neg"'):
        words_of({"neg": ["ärger"], "pos": ["good"]}, ["neg", "pos"], tokenizer(), split)


def test_labels_without_words_and_words_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match='label "pos" has no word'):
        words_of({"neg": ["bad"]}, ["neg", "pos"], tokenizer(), "refuse")
    with pytest.raises(UserError, match='no label "poss"; did you mean "pos"'):
        words_of({"neg": ["bad"], "pos": ["good"], "poss": ["fine"]}, ["neg", "pos"], tokenizer(), "refuse")


def test_a_word_stands_behind_a_space() -> None:
    spaced = Tokenizer(models.BPE({"Ġ": 0, "g": 1, "o": 2, "Ġg": 3, "Ġgo": 4, "go": 5}, [("Ġ", "g"), ("Ġg", "o")]))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spaced.decoder = decoders.ByteLevel()
    assert tokens_of("go", PreTrainedTokenizerFast(tokenizer_object=spaced)) == (4,)
    assert tokens_of(" go ", PreTrainedTokenizerFast(tokenizer_object=spaced)) == (4,)
    assert tokens_of("wonderful", tokenizer()) == (9, 10, 11)


@pytest.mark.parametrize("variant", ["warp", "openprompt"])
def test_a_fresh_soft_verbalizer_scores_as_its_words_do(variant: Any) -> None:
    own = given()
    made = soft.make(soft.Options(words={"neg": ("bad", "poor"), "pos": ("wonderful",)}, variant=variant), own)
    states, logits, params = foreseen(own, made)
    found = made.score(states, logits, params)[0]
    if variant == "openprompt":
        own = Given(own.labels, own.tokenizer, own.rows, own.rows[:, 0] * 0)
    torch.testing.assert_close(found[:, 0], of(own, states, "bad", "poor"))
    torch.testing.assert_close(found[:, 1], of(own, states, "won", "##der", "##ful"))
    assert sum(param.count for param in made.params.values()) == 2 * WIDTH + 2 * (variant == "warp")


def looked(labels: int = 2, count: int = 24) -> Seen:
    """Examples of labels whose masks foresee the words 3 to 5, or 6 to 8, more or less."""
    generator = torch.Generator().manual_seed(3)
    goals = torch.arange(count) % labels
    logits = torch.randn(count, len(PIECES), generator=generator) * 0.3
    for label in range(labels):
        logits[goals == label, 3 + 3 * label : 6 + 3 * label] += torch.tensor([4.0, 3.0, 2.0])
    states = torch.nn.functional.one_hot(goals, WIDTH) * 3 + torch.randn(count, WIDTH, generator=generator) * 0.3
    return Seen(states, logits, goals)


def test_a_knowledgeable_run_keeps_frequent_and_relevant_words_and_their_priors() -> None:
    own = given(seen=looked())
    words = {"neg": ("good", "great", "9", "bad"), "pos": ("bad", "awful", "fine", "wonderful")}
    options = knowledgeable.resolved(knowledgeable.Options(words=words), own)
    assert options.words == {"neg": ("good", "great"), "pos": ("bad", "awful")}
    assert knowledgeable.resolved(options, own) is options
    assert len(options.priors) == 4
    plain = knowledgeable.Options(words=words, relevance=False, quantile=0.0)
    assert knowledgeable.resolved(plain, own).words == words


@pytest.mark.parametrize("weights", ["mean", "learned"])
def test_a_knowledgeable_verbalizer_is_made_again_without_examples(weights: Any) -> None:
    own = given()
    words = {"neg": ("bad",), "pos": ("good", "great")}
    made = knowledgeable.make(knowledgeable.Options(words=words, weights=weights, priors=(-1.0, -2.0, -3.0)), own)
    states, logits, params = foreseen(own, made)
    found = made.score(states, logits, params)[0]
    torch.testing.assert_close(found[:, 0], of(own, states, "bad") + 1)
    each = torch.stack([of(own, states, "good") + 2, of(own, states, "great") + 3])
    expected = each.exp().mean(0).log() if weights == "mean" else each.mean(0)
    torch.testing.assert_close(found[:, 1], expected)
    assert made.rate == (0.06 if weights == "learned" else None)
    with pytest.raises(UserError, match="priors has 2 numbers for 3 words"):
        knowledgeable.make(knowledgeable.Options(words=words, priors=(-1.0, -2.0)), own)


def test_prototypes_start_fitted_and_words_are_averaged_in() -> None:
    own = given(seen=looked())
    words = {"neg": ("good",), "pos": ("bad",)}
    made = prototypical.make(prototypical.Options(width=4, epochs=50, rate=0.05), own)
    _, logits, params = foreseen(own, made)
    assert own.seen is not None
    alone = made.score(own.seen.states[None], logits, params)
    assert alone[0].argmax(1).tolist() == own.seen.goals.tolist()
    both = prototypical.make(prototypical.Options(words=words, width=4, epochs=50, rate=0.05), own)
    states, logits, params = foreseen(own, both)
    manual = torch.stack([of(own, states, "good"), of(own, states, "bad")], 1)
    near = prototypical.prototype_scores(states, params["down"], params["prototypes"])[0]
    torch.testing.assert_close(both.score(states, logits, params)[0], prototypical.together(manual, near))
    later = prototypical.make(prototypical.Options(words=words, width=4), given())
    assert {name: param.shape for name, param in later.params.items()} == {"down": (4, WIDTH), "prototypes": (2, 4)}
    with pytest.raises(UserError, match="two labels"):
        prototypical.make(prototypical.Options(), given(seen=looked(labels=1)))


def test_words_are_found_by_likelihood_and_pieces_are_no_words() -> None:
    own = given(seen=looked())
    options = likelihood.resolved(likelihood.Options(count=2), own)
    assert options.words == {"neg": ("good", "great"), "pos": ("bad", "awful")}
    made = likelihood.make(options, own)
    states, logits, params = foreseen(own, made)
    found = made.score(states, logits, params)[0]
    torch.testing.assert_close(found[:, 1], of(own, states, "bad", "awful"))
    known = likelihood.whole_words(tokenizer(), len(PIECES))
    assert [PIECES[n] for n, text in enumerate(known) if text is None] == [
        "[UNK]",
        "[PAD]",
        "[MASK]",
        "##der",
        "##ful",
        "9",
    ]
    with pytest.raises(UserError, match='no training example has label "pos"'):
        likelihood.resolved(likelihood.Options(), given(seen=looked(labels=1)))


def test_a_score_lies_between_two_words_and_has_its_own_loss() -> None:
    own = given(labels=())
    made = interpolation.make(interpolation.Options(words=("bad", "good"), low=0, high=5), own)
    states, logits, params = foreseen(own, made)
    scores = made.score(states, logits, params)[0]
    share = torch.stack([of(own, states, "bad"), of(own, states, "good")], 1).softmax(1)[:, 1]
    torch.testing.assert_close(scores[:, 0], 5 * share)
    assert made.loss is not None
    torch.testing.assert_close(made.loss(scores, 5 * share), torch.zeros(4), atol=1e-6, rtol=0)
    assert (made.loss(scores, torch.full((4,), 9.0)) > 0).all()
    with pytest.raises(UserError, match="low = 5 must be less than high = 1"):
        interpolation.Options.parse({"words": ["bad", "good"], "low": 5, "high": 1})
