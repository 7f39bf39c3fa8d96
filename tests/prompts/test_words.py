"""Words at the mask are the tokens that a model has seen, in byte-level, SentencePiece and WordPiece vocabularies."""

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as kinds
from transformers import BertTokenizer, PreTrainedTokenizerFast

import tiny
from graftlm.core.errors import UserError
from graftlm.prompts import Filler, parse
from graftlm.prompts._frame import Frame, frame_of
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._verbalizer import make
from graftlm.sites import Sites

CORPUS = ["It was great. It was terrible. Great ( great ) 好 心情 很 好 。 great film, and so on"] * 9


def byte_level(mask: bool) -> PreTrainedTokenizerFast:
    """As GPT-2's, or with a mask that takes the space before it as RoBERTa's."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))  # pyright: ignore
    special: dict[str, Any] = {"mask_token": AddedToken("<mask>", lstrip=True)} if mask else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", **special)


def sentencepiece(scheme: str = "always") -> PreTrainedTokenizerFast:
    """As T5's, with a sentinel."""
    pieces = ["▁", "▁great", "great", "▁It", "▁was", "▁terrible", "(", ")", ".", "好", "很", "▁心情", "a", "▁a", ","]
    made = Tokenizer(kinds.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)  # pyright: ignore[reportArgumentType]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", extra_special_tokens=["<extra_id_0>"]
    )


def wordpiece(tmp_path: Any) -> Any:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "it",
        "was",
        "great",
        "terr",
        "##ible",
        "好",
        "心",
        "情",
        "很",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "a", ".", "(", ")"]))
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


def lexicon(tokenizer: Any, family: str, template: str) -> Lexicon:
    sites = Sites(tiny.model(family, lm=True))
    return Lexicon(parse(template), frame_of(tokenizer, sites), sites)


def spelled(own: Lexicon, word: str) -> list[str]:
    return own.tokenizer.convert_ids_to_tokens(own.tokens(word))


@pytest.mark.parametrize(("family", "masked"), [("gpt2", False), ("roberta", True)])
def test_byte_level_words_have_the_space_before_them(family: str, masked: bool) -> None:
    tokenizer = byte_level(masked)
    assert spelled(lexicon(tokenizer, family, "{text} It was {mask}"), "great") == ["Ġgreat"]
    assert spelled(lexicon(tokenizer, family, "{text} ({mask}"), "great") == ["great"]
    assert spelled(lexicon(tokenizer, family, "{mask}"), "great") == ["great"]
    assert spelled(lexicon(tokenizer, family, "{text}{mask}"), "great") == ["great"]
    assert spelled(lexicon(tokenizer, family, "*cls**sent_0*_It_was*mask*"), "great") == ["Ġgreat"]
    if masked:
        assert spelled(lexicon(tokenizer, family, "*cls**mask*:*+sent_0**sep+*"), "great") == ["Ġgreat"]
        assert spelled(lexicon(tokenizer, family, "{text} ‖ {mask:space}"), "great") == ["Ġgreat"]


def test_robertas_mask_takes_the_space_before_it() -> None:
    own = lexicon(byte_level(True), "roberta", "{text} It was {mask}.")
    (filled,) = Filler(own.template, own.frame).fill([{"text": "great"}], 30)
    spelling = own.tokenizer.convert_ids_to_tokens(filled.ids)
    assert spelling == ["great", "ĠIt", "Ġwas", "<mask>", "."]


@pytest.mark.parametrize(
    "before", ["{text}\n", "{text}\n ", "{text} ", "{text}", "{text} (", "{text} It ", "", "{text}‖", "{text}‖{ }"]
)
@pytest.mark.parametrize("family", ["gpt2", "roberta", "t5"])
def test_tuned_words_start_from_the_tokens_that_the_words_are_in_their_place(family: str, before: str) -> None:
    tokenizer = sentencepiece() if family == "t5" else byte_level(family == "roberta")
    hard, own = (
        lexicon(tokenizer, family, f"{before}{words} {{mask}}") for words in ("great (", '{"soft": "great ("}')
    )
    slots = {piece: own.placed(piece.words, piece) for piece in own.template.softs}
    (plain,) = Filler(hard.template, hard.frame).fill([{"text": "great"}], 30)
    (tuned,) = Filler(own.template, own.frame, slots).fill([{"text": "great"}], 30)
    assert tokenizer.convert_ids_to_tokens(tuned.ids) == tokenizer.convert_ids_to_tokens(plain.ids)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("*cls**+sent_0*_It_was*mask*", "Ġgreat ĠIt Ġwas <mask>"),
        ("*cls**sent_0**sep+**+sent_1*_It_was*mask*", "great | Ġgreat ĠIt Ġwas <mask>"),
        ("*cls**sent_0**sep+*_It_was*mask*", "great | ĠIt Ġwas <mask>"),
        ("{ }{text} ‖ { }It was {mask}", "Ġgreat | ĠIt Ġwas <mask>"),
        ("{text} ‖ It was {mask}", "great | It Ġwas <mask>"),
        ('{"placeholder": "text_a", "add_prefix_space": " "} It was {"mask"}', "Ġgreat ĠIt Ġwas <mask>"),
    ],
)
def test_a_space_that_is_asked_for_stays_where_a_segment_begins(template: str, wanted: str) -> None:
    own = lexicon(byte_level(True), "roberta", template)
    frame = replace(own.frame, between=(own.tokenizer.convert_tokens_to_ids("|"),))
    (filled,) = Filler(own.template, frame).fill([{"text": "great", "text_pair": "great"}], 30)
    assert " ".join(own.tokenizer.convert_ids_to_tokens(filled.ids)) == wanted


def test_gpt2_is_asked_behind_its_last_word_and_not_behind_a_space() -> None:
    own = lexicon(byte_level(False), "gpt2", "{text} It was {mask}")
    (filled,) = Filler(own.template, own.frame).fill([{"text": "great"}], 30)
    assert own.tokenizer.convert_ids_to_tokens(filled.ids) == ["great", "ĠIt", "Ġwas"]
    assert filled.places == [2]
    own = lexicon(byte_level(False), "gpt2", "It was {text:shorten} {mask}")
    (filled,) = Filler(own.template, own.frame).fill([{"text": "great great"}], 3)
    assert own.tokenizer.convert_ids_to_tokens(filled.ids) == ["It", "Ġwas", "Ġgreat"]
    assert [token.owner for token in filled.tokens] == ["words", "words", "field", "field"]


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_sentencepiece_words_have_its_sign(scheme: str) -> None:
    own = sentencepiece(scheme)
    assert spelled(lexicon(own, "t5", "{text} It was {mask}."), "great") == ["▁great"]
    assert spelled(lexicon(own, "t5", "{text} ( {mask} )"), "great") == ["▁great"]
    assert spelled(lexicon(own, "t5", "{text} It was({mask})"), "great") == ["great"]
    assert spelled(lexicon(own, "t5", "{text}{mask}"), "great") == ["great"]
    assert spelled(lexicon(own, "t5", "{soft:2}{mask}"), "great") == ["▁great"]
    filler = lexicon(own, "t5", "{text} It was {mask}.")
    (filled,) = Filler(filler.template, filler.frame).fill([{"text": "great"}], 30)
    assert own.convert_ids_to_tokens(filled.ids)[:4] == ["▁great", "▁It", "▁was", "<extra_id_0>"]


def test_chinese_characters_are_one_token(tmp_path: Any) -> None:
    assert spelled(lexicon(sentencepiece(), "t5", "心情很{mask}。"), "好") == ["好"]
    assert spelled(lexicon(wordpiece(tmp_path), "bert", "{text}心情很{mask}。"), "好") == ["好"]
    assert spelled(lexicon(wordpiece(tmp_path), "bert", "{mask}"), "好") == ["好"]


def test_a_word_of_several_tokens_is_refused_or_its_first_is_taken(tmp_path: Any) -> None:
    own = lexicon(wordpiece(tmp_path), "bert", "{text} It was {mask}.")
    words = {"x": "great", "y": "terrible"}
    with pytest.raises(UserError, match=r'"terrible" is 2 tokens \(terr, ##ible\), and a mask is one'):
        make(words, ("x", "y"), own)
    found = make({"name": "manual", "words": words, "several": "first"}, ("x", "y"), own)
    assert own.tokenizer.convert_ids_to_tokens(found.rows.tolist()) == ["great", "terr"]


def test_a_word_that_no_token_has_is_refused(tmp_path: Any) -> None:
    own = lexicon(wordpiece(tmp_path), "bert", "{text} It was {mask}.")
    with pytest.raises(UserError, match='the word "splendid" is not in the vocabulary'):
        make({"x": "great", "y": ["splendid"]}, ("x", "y"), own)
    with pytest.raises(UserError, match='no word for the label "z"'):
        make({"x": "great"}, ("x", "z"), own)
    with pytest.raises(UserError, match='no label "zz"'):
        make({"x": "great", "zz": "it"}, ("x", "z"), own)


def test_a_labels_logit_is_the_weighted_mean_of_its_words(tmp_path: Any) -> None:
    """METHODS' T10: logits [0, 2, 4, 1, 3], labels {2, 4} and {3}: 3.5 and 1, p₀ = 0.9241, cross-entropy 0.07889."""
    import torch

    own = lexicon(wordpiece(tmp_path), "bert", "{text} {mask}")
    found = make({"x": ["was", "great"], "y": "it"}, ("x", "y"), own)
    spots = {"was": 4.0, "great": 3.0, "it": 1.0}
    logits = torch.tensor([[[spots[word] for word in own.tokenizer.convert_ids_to_tokens(found.rows.tolist())]]])
    scores = found.scores(torch.zeros(1, 1, 1), logits, {})
    assert scores.tolist() == [[3.5, 1.0]]
    assert float(scores.softmax(-1)[0, 0]) == pytest.approx(0.9241, abs=1e-4)
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0]))
    assert float(loss) == pytest.approx(0.07889, abs=1e-5)
    weighted = make({"x": {"was": 3, "great": 1}, "y": "it"}, ("x", "y"), own)
    assert weighted.scores(torch.zeros(1, 1, 1), logits, {}).tolist() == [[3.75, 1.0]]


def test_segments_have_the_tokenizers_own_signs(tmp_path: Any) -> None:
    own = lexicon(wordpiece(tmp_path), "bert", "{text} ‖ It was {mask}.")
    (filled,) = Filler(own.template, own.frame).fill([{"text": "great"}], 30)
    pair = own.tokenizer("great", "it was [MASK].")
    assert filled.ids == pair["input_ids"]
    assert filled.types == pair["token_type_ids"]
    assert isinstance(replace(own.frame, spaced=False), Frame)


def test_a_causal_model_is_refused_what_stands_behind_the_mask() -> None:
    from graftlm.core.settings import PromptConfig
    from graftlm.prompts import bound

    config = PromptConfig(template="{text} It was {mask}.", verbalizer={"a": "great", "b": "terrible"})
    with pytest.raises(UserError, match=r'character 21: "\." stands behind \{mask\}'):
        bound(config, ("a", "b"), byte_level(False), Sites(tiny.model("gpt2", lm=True)), 0)


def test_a_place_in_a_template_is_counted_in_what_a_user_wrote_or_not_named() -> None:
    from graftlm.core.settings import PromptConfig
    from graftlm.prompts import bound

    words = {"a": "great", "b": "terrible"}
    for template in ('{"placeholder": "text_a"} It was {"mask"}.', "*cls**sent_0*_It_was*mask*.*sep+*"):
        config = PromptConfig(template=template, verbalizer=words)
        with pytest.raises(UserError, match=r'template: "\." stands behind \{mask\}'):
            bound(config, ("a", "b"), byte_level(False), Sites(tiny.model("gpt2", lm=True)), 0)


def test_half_a_surrogate_pair_is_refused_in_a_text_and_in_a_template() -> None:
    from graftlm.core.example import Example
    from graftlm.core.settings import PromptConfig
    from graftlm.prompts import value_of

    with pytest.raises(UserError, match="an input: text holds half a surrogate pair at character 2"):
        value_of(Example("a\ud800b"), "text", {})
    with pytest.raises(UserError, match="half a surrogate pair at character 8"):
        PromptConfig.parse({"template": "{text} \ud800 {mask}"}, where="prompt.")


def test_text_is_normalised_without_losing_the_mask() -> None:
    own = byte_level(True)
    own.backend_tokenizer.normalizer = normalizers.NFKD()
    filler = lexicon(own, "roberta", "{text} It was {mask}.")
    for text in ("é" * 5, "ﬁ ﬂ Å", "<mas", "\u200b", "<mask>"):
        (filled,) = Filler(filler.template, filler.frame).fill([{"text": text}], 99)
        assert own.convert_ids_to_tokens(filled.ids)[filled.places[-1]] == "<mask>"
        assert len(filled.places) == 1
