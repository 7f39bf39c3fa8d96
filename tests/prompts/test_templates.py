"""The template language: what is written reads back, any text may stand in a field, errors name the character."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftlm.core.errors import UserError
from graftlm.prompts import Filler, parse
from graftlm.prompts._frame import Frame, with_specials
from graftlm.prompts._template import Break, Field, Mask, Piece, Soft, Turn, Words, joined
from prompts.models import tokenizer

ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
NAMES = st.one_of(st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True), st.sampled_from(["mask", "soft", "turn"]))
PIECES = st.one_of(
    TEXTS.map(Words),
    st.just(Words(" ", exact=True)),
    st.builds(Field, NAMES, st.lists(st.sampled_from(["lower", "strip_period", "shorten"]), max_size=2).map(tuple)),
    st.just(Mask()),
    st.builds(Soft, st.integers(1, 99)),
    st.builds(
        lambda words: Soft(1, words), st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
    ),
    st.builds(lambda length, name: Soft(length, "", name), st.integers(1, 9), NAMES),
    st.just(Break()),
    st.sampled_from(["system", "user", "assistant"]).map(Turn),
)


def one_id_once(pieces: list[Piece]) -> bool:
    names = [piece for piece in pieces if isinstance(piece, Soft) and piece.name]
    return len({piece.name for piece in names}) == len(set(names))


@ANY
@given(st.lists(PIECES, max_size=8).filter(one_id_once))
def test_a_template_reads_back_as_it_was_written(pieces: list[Piece]) -> None:
    made = joined(pieces)
    if not str(made).startswith("*"):
        assert parse(str(made)) == made


@ANY
@given(TEXTS)
def test_any_text_is_a_template_or_a_users_mistake(text: str) -> None:
    try:
        made = parse(text)
    except UserError:
        return
    assert parse(str(made)) == made or text.startswith("*")


def wordpiece() -> Filler:
    """A text of any signs, a mask and a text that is cut, each sign a token of its own."""
    own = tokenizer("bert")
    frame = Frame(own, "masked", (1,), (2,), (2,), None, ("<mask>", 4), 2, True)
    return Filler(parse("{text:shorten} w1 {mask} . ‖ {text_pair:shorten} w2"), frame)


@ANY
@given(TEXTS, TEXTS, st.integers(8, 20))
def test_no_text_moves_the_mask_or_cuts_the_template(text: str, pair: str, room: int) -> None:
    (filled,) = wordpiece().fill([{"text": text, "text_pair": pair}], room)
    assert len(filled.ids) <= room
    (place,) = filled.places
    words = [token.id for token in filled.kept if token.owner in ("words", "special", "mask")]
    assert filled.ids[place] == 4
    assert words == [1, 9, 4, 6, 2, 10, 2]


@ANY
@given(TEXTS)
def test_what_is_not_marked_is_never_cut(text: str) -> None:
    filler = Filler(parse("{text} w1 {mask}"), wordpiece().frame)
    (filled,) = filler.fill([{"text": text}], 1 << 20)
    size = len(filled.ids)
    assert not filled.shortened
    if size > 4:
        with pytest.raises(UserError, match=r"only fields that are marked are cut: write \{text:shorten\}"):
            filler.fill([{"text": text}], size - 1)


def test_the_longer_text_is_cut_first() -> None:
    long, short = "w3 " * 20, "w4 w5 w6"
    (filled,) = wordpiece().fill([{"text": long, "text_pair": short}], 14)
    assert [token.id for token in filled.kept if token.owner == "field"].count(11) == 4
    assert [token.id for token in filled.kept if token.owner == "field"][-3:] == [12, 13, 14]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a {text", "character 3: { is not closed"),
        ("a } b", "character 3: } closes nothing"),
        ("{text:lowr}", 'no filter "lowr"; did you mean "lower"?'),
        ("x{}", "character 2: {} is empty"),
        ("{mask:lower}", "has a filter; a mask has none"),
        ("{soft:many}", "many is no number and no id"),
        ('{"soft": 0}', '"soft": 0 is neither'),
        ('{"sotf": 8}', 'no piece "sotf"'),
        ('{"text": "x", "add_prefix_space": true}', '"add_prefix_space": True is neither " " nor ""'),
        ('{"placeholder": "text_a", "post_processing": 1}', '"post_processing" beside "placeholder" cannot be read'),
        ("{turn:bot}", "names no speaker"),
        ("{soft:2,id=1} {soft:3,id=1}", "have one id"),
        ("{soft:2,id=1,id=2}", "id=2 is no number and no id"),
        ('{"soft": "It was", "duplicate": 2}', '"duplicate" and "same" are of virtual tokens without words'),
        ('{"meta": "x", "post_processing": lambda x: x}', "code is never run, as lambda; filters are written as"),
        ("*cls**sent_0**label_0**mask*", r"\*label_0\* is of a demonstration"),
        ("*cls**sent_2**mask*", "one text or two"),
    ],
)
def test_a_mistake_is_named(text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted if "\\" in wanted else None) as error:
        parse(text)
    assert wanted.replace("\\", "") in str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("*cls**sent_0*_It_was*mask*.*sep+*", "{text:shorten} It was{mask:space}."),
        (
            "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
            "{text:drop_last:shorten}?{mask:space}, {text_pair:first_lower:shorten}",
        ),
        ("*cls**mask*:*+sent_0**sep+*", "{mask:space}: {text:shorten}"),
        ("*cls**+sent_0*_It_was*mask*", "{ }{text:shorten} It was{mask:space}"),
        ("*cls**sent_0**sep+*_It_was*mask*", "{text:shorten}‖{ }It was{mask:space}"),
        ("*cls**sent_0**sep+**sentu_1**mask**sep+*", "{text:shorten}‖{text_pair:first_upper:shorten}{mask:space}"),
        ('{"placeholder": "text_a"} It was {"mask"}.', "{text:shorten} It was {mask}."),
        ('{"soft": None, "duplicate": 3} {"meta": "source"} {"mask"}', "{soft:3} {source} {mask}"),
        ('{"soft": "It was", "soft_id": 1} {"placeholder": "text_b", "shortenable": False}', None),
        (
            '{"soft_id": 1} {"soft": "the", "soft_id": 1} {"soft_id": 1} {"mask"}',
            '{"soft": "the", "id": "1"} {"soft": "the", "id": "1"} {"soft": "the", "id": "1"} {mask}',
        ),
        ('{"soft": None, "duplicate": 2, "soft_id": 2} {"soft_id": 2}', "{soft:2,id=2} {soft:2,id=2}"),
        ('{"soft": None, "duplicate": 2, "same": True} {"mask"}', "{soft:id=same-1}{soft:id=same-1} {mask}"),
        ('{"text": "It was"} {"mask"} {"special": "<eos>"}', 'It was {mask} {"special": "<eos>"}'),
        ("{meta.source}: {text} {mask}", "{source}: {text} {mask}"),
        ('{"placeholder": "text_a", "add_prefix_space": " "}It was{"mask"}', "{ }{text:shorten}It was{mask}"),
        ('{"meta": "x"}{"text": "It was", "add_prefix_space": " "}{"mask"}', "{x} It was{mask}"),
        (
            '{"meta": "x"}  {"text": "is", "add_prefix_space": " "} {"mask": None, "add_prefix_space": ""}',
            "{x} is{mask}",
        ),
        ('{"soft": None, "duplicate": 2, "add_prefix_space": " "}{"mask"}', "{ }{soft:2}{mask}"),
        ("a  { }{text}{ }{mask}", "a {text} {mask}"),
    ],
)
def test_templates_of_other_libraries_are_read(theirs: str, ours: str | None) -> None:
    assert str(parse(theirs)) == (ours or '{"soft": "It was", "id": "1"} {text_pair}')


def test_fields_hold_braces_and_quotes_as_they_are() -> None:
    rows = ['{mask} {"soft": 3}', "‖ {{", "\"'`{text}", "<mask> <mask>"]
    random.Random(0).shuffle(rows)
    for row in rows:
        (filled,) = wordpiece().fill([{"text": row, "text_pair": row}], 200)
        assert filled.places[0] == filled.ids.index(9) + 1


def test_a_special_token_is_what_the_tokenizer_has_for_it_with_no_space_before_it() -> None:
    theirs = parse('{text} {"special": "<eos>"} It was {"mask"}{"special": "</s>"}')
    assert str(with_specials(theirs, tokenizer("bert"))) == "{text}</s> It was {mask}</s>"
    with pytest.raises(UserError, match='has no special token "<cls>"; it has <eos>, <mask>, <pad>, <unk>'):
        with_specials(parse('{"special": "<cls>"} {mask}'), tokenizer("bert"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{meta.} {mask}", "character 1: {meta.} names no field"),
        ('{text} {"soft": "\\ud800"} {mask}', "character 8: '\\ud800' holds half a surrogate pair at character 1"),
        ('{"soft": 3, "duplicate": 2} {mask}', '"duplicate" is of {"soft": null}'),
        ("*cls**sent_12*_It_was*mask*.*sep+*", "*sent_12* is none of LM-BFF's sentences"),
        ("*cls**sent-l_0*_It_was*mask*.*sep+*", "*sent-l_0* is none of LM-BFF's sentences"),
    ],
)
def test_what_another_library_would_read_otherwise_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert said in str(error.value)


def test_lm_bff_s_sep_alone_begins_no_segment() -> None:
    own = with_specials(parse("*cls**sent_0**sep**sent_1*_is*mask*.*sep*"), tokenizer("bert", sep_token="</s>"))
    assert Break() not in own.pieces
    assert Break() in parse("*cls**sent_0**sep+**sent_1*_is*mask*.*sep+*").pieces
    assert str(own) == "{text:shorten}</s>{text_pair:shorten} is{mask:space}."


def test_only_what_cannot_be_cut_is_to_blame_for_the_length() -> None:
    frame = wordpiece().frame
    with pytest.raises(UserError, match=r"only fields that are marked are cut: write \{text_pair:shorten\}"):
        Filler(parse("{text:shorten} {text_pair} {mask}"), frame).fill([{"text": "w1", "text_pair": "w1 " * 9}], 8)
    with pytest.raises(UserError, match="alone has more than the 4 tokens"):
        Filler(parse("{text:shorten} w1 w2 {mask}"), frame).fill([{"text": "w1"}], 4)


def test_without_filters_a_text_stands_as_it_is() -> None:
    """A mask in place of a text stays one, though the template would write it small."""
    filler = Filler(parse("{text:lower:drop_last} w1 {mask}"), wordpiece().frame)
    (filtered,), (plain,) = (filler.fill([{"text": "<mask>"}], 20, filtered=each) for each in (True, False))
    assert (filtered.ids.count(4), plain.ids.count(4)) == (1, 2)
