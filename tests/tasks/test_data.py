import json
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.core.errors import UserError
from graftlm.core.settings import DataConfig
from graftlm.tasks import load, read_texts

ROWS = [{"text": f"text {n}", "label": n % 2} for n in range(20)]


def config(path, **options) -> DataConfig:
    return DataConfig(path=str(path), **options)


def refusal(path, task="classification", splits=("train",), labels=None, **options) -> str:
    with pytest.raises(UserError) as error:
        load(config(path, **options), task, splits, labels)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "sizes", "labels", "pair"),
    [
        ("sst2", {"train": 6909, "validation": 872, "test": 1821}, ("negative", "positive"), False),
        ("snli", {"train": 7995, "validation": 1002, "test": 2002}, ("entailment", "neutral", "contradiction"), True),
        ("mrpc", {"train": 3668, "validation": 408, "test": 1725}, ("not_equivalent", "equivalent"), True),
    ],
)
def test_a_folder_of_real_data_is_read_whole_with_its_names_in_the_order_of_its_numbers(
    shared, name, sizes, labels, pair
):
    data = load(config(shared(name)), "classification")
    assert {split: len(rows) for split, rows in data.splits.items()} == sizes
    assert data.pair is pair
    assert len(data.labels) == len(labels)
    assert name == "mrpc" or data.labels == labels


def test_the_fine_classes_of_trec_take_their_names_from_the_column_beside_them(shared):
    data = load(config(shared("trec"), columns={"label": "fine_label"}), "classification", ("train", "validation"))
    assert "LOC:city" in data.labels


def test_real_scores_become_numbers_and_have_no_labels(shared):
    data = load(config(shared("vader_tweets")), "regression", ("validation",))
    assert data.labels == ()
    first = data.splits["validation"][0]
    assert first.label is None
    assert isinstance(first.score, float)
    assert first.id is not None


def test_only_the_splits_that_are_asked_for_are_read(folder, write):
    path = folder(train=ROWS)
    write("data/test.jsonl", "this is not JSON")
    assert set(load(config(path), "classification", ("train",)).splits) == {"train"}


def test_validation_may_be_missing_beside_train_but_not_alone(folder):
    path = folder(train=ROWS)
    assert set(load(config(path), "classification", ("train", "validation")).splits) == {"train"}
    assert 'no split "validation"' in refusal(path, splits=("validation",))


def test_a_split_is_known_by_its_usual_spellings(folder):
    data = load(config(folder(train=ROWS, dev=ROWS)), "classification", ("train", "dev"))
    assert set(data.splits) == {"train", "dev"}
    assert set(load(config(folder(train=ROWS, dev=ROWS)), "classification").splits) == {"train", "validation"}


def test_json_csv_and_parquet_give_the_same_examples(write, tmp_path):
    from datasets import Dataset

    rows = [
        {"text": text, "label": n % 2} for n, text in enumerate(["NA", "two\nlines", "2020-01-01", '"quoted", once'])
    ]
    write("a.jsonl", rows)
    write("a.csv", 'text,label\nNA,0\n"two\nlines",1\n2020-01-01,0\n"""quoted"", once",1\n')
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    write("a.json", "[\n" + ",\n".join(json.dumps(row) for row in rows) + "]")
    read = [
        load(config(tmp_path / f"a.{kind}"), "classification", ("train",))
        for kind in ("jsonl", "csv", "parquet", "json")
    ]
    assert [example.text for example in read[0].splits["train"]] == [row["text"] for row in rows]
    assert all(other.splits == read[0].splits and other.labels == read[0].labels for other in read[1:])


def test_a_column_of_dates_stays_text(write):
    path = write("a.jsonl", [{"text": f"2020-01-0{n + 1}", "label": n % 2} for n in range(4)])
    assert load(config(path), "classification", ("train",)).splits["train"][0].text == "2020-01-01"


def test_fractions_cut_one_file_into_the_same_disjoint_parts_each_time(write):
    path = write("all.jsonl", [{"text": str(n), "label": n % 2} for n in range(100)])
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    data = load(config(path, split=fractions), "classification")
    again = load(config(path, split=fractions), "classification", ("test",), labels=data.labels)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 80, "validation": 10, "test": 10}
    assert sorted(int(row.text) for rows in data.splits.values() for row in rows) == list(range(100))
    assert again.splits["test"] == data.splits["test"]


def test_the_order_that_fractions_are_written_in_cuts_nothing_else(write):
    path = write("all.jsonl", [{"text": str(n), "label": n % 2} for n in range(20)])
    first, second = ({"train": 0.5, "dev": 0.2, "test": 0.3}, {"test": 0.3, "train": 0.5, "validation": 0.2})
    one, other = (load(config(path, split=fractions), "classification").splits for fractions in (first, second))
    assert {name: one[name] for name in other} == other


def test_one_file_is_whatever_one_split_is_asked_for(write):
    path = write("all.jsonl", ROWS)
    for split in ("train", "test", "validation"):
        assert len(load(config(path), "classification", (split,)).splits[split]) == 20


def test_a_limit_takes_the_first_rows_as_they_are(folder):
    data = load(config(folder(train=ROWS, test=ROWS), limit={"train": 3}), "classification")
    assert [row.text for row in data.splits["train"]] == ["text 0", "text 1", "text 2"]
    assert len(data.splits["test"]) == 20


def test_a_limit_loses_no_label(folder):
    rows = sorted(ROWS, key=lambda row: row["label"])
    assert load(config(folder(train=rows), limit={"train": 3}), "classification").labels == ("0", "1")


def test_whole_numbers_sort_as_numbers_and_strings_as_strings(write):
    path = write("a.jsonl", [{"text": "x", "label": n} for n in (10, 2, 1, 10)])
    data = load(config(path), "classification", ("train",))
    assert data.labels == ("1", "2", "10")
    assert [row.label for row in data.splits["train"]] == [2, 1, 0, 2]
    path = write("b.jsonl", [{"text": "x", "label": label} for label in ("pos", "neg")])
    assert load(config(path), "classification", ("train",)).labels == ("neg", "pos")


def test_names_from_train_hold_in_a_split_that_has_only_the_numbers(folder):
    train = [{**row, "label_text": "yes" if row["label"] else "no"} for row in ROWS]
    data = load(config(folder(train=train, validation=ROWS)), "classification")
    assert data.labels == ("no", "yes")
    assert data.splits["validation"][1].label == 1


def test_class_names_in_a_parquet_file_are_kept(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "train.parquet")
    data = load(config(tmp_path), "classification")
    assert data.labels == ("bad", "good")
    assert [row.label for row in data.splits["train"]] == [1, 0]


def test_stored_labels_give_the_run_s_own_indices(folder):
    path = folder(test=[{"text": "a", "label": "b"}, {"text": "a", "label": "a"}])
    data = load(config(path), "classification", ("test",), labels=("b", "c", "a"))
    assert data.labels == ("b", "c", "a")
    assert [row.label for row in data.splits["test"]] == [0, 2]


def test_an_unknown_label_is_named_with_its_line_and_the_known_ones(folder):
    path = folder(test=[{"text": "a", "label": "a"}, {"text": "a", "label": "z"}])
    message = refusal(path, splits=("test",), labels=("a", "b"))
    assert 'test.jsonl line 2: label "z"' in message
    assert "a, b" in message
    message = refusal(folder(train=ROWS, validation=[{"text": "x", "label": 7}]), splits=("train", "validation"))
    assert 'validation.jsonl line 1: label "7"' in message


def test_the_line_in_an_error_counts_blank_lines_and_lines_inside_cells(write):
    path = write("a.jsonl", '{"text": "a", "label": 1}\n\n\n{"text": 5, "label": 0}\n')
    assert "a.jsonl line 4: text is 5, not a string" in refusal(path)
    path = write("a.csv", 'text,label\n"one\ntwo",1\nthree,\n')
    assert "a.csv line 4: label is missing" in refusal(path)


@pytest.mark.parametrize("label", [None, "", "  "])
def test_a_missing_label_is_an_error_with_its_line(write, label):
    path = write("train.jsonl", [*ROWS, {"text": "x", "label": label}])
    assert "train.jsonl line 21: label is missing" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no examples"),
        ('{"text": "a", "label": 1}\n{"text": \n', "line 2: not JSON"),
        ("[1, 2]", "item 1: an example is an object"),
        ('"a"\n', "line 1: an example is an object"),
        ('{"text": "a\\ud800", "label": 1}\n{"text": "b", "label": 0}\n', "half a surrogate pair"),
        ('{"text": "a", "label": 1}\n', 'one class only ("1")'),
        ('{"text": "a", "label": 1.5}\n', "--task regression"),
        ('{"text": "a", "label": [1, 2]}\n', "one class an example"),
        ('{"text": null, "label": 1}\n{"text": "b", "label": 0}\n', "line 1: text is missing"),
    ],
)
def test_bad_json_lines_are_named(write, content, said):
    assert said in refusal(write("a.jsonl", content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\n", "holds no examples"),
        ("text,label\na,b,c\n", "line 2: 3 fields, but the header has 2"),
        ('text,label\n"a,1\n', "not CSV"),
        ("text,text\na,b\n", 'two columns named "text"'),
        ("text,label\na,1.5\nb,2.5\n", "--task regression"),
    ],
)
def test_bad_csv_is_named(write, content, said):
    assert said in refusal(write("a.csv", content))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    for name, content in (("a.jsonl", b'{"text": "\xff", "label": 1}\n'), ("a.csv", b"text,label\n\xff,1\n")):
        (tmp_path / name).write_bytes(content)
        assert "not UTF-8" in refusal(tmp_path / name)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    assert "not a readable Parquet file" in refusal(tmp_path / "a.parquet")


def test_a_byte_order_mark_is_no_part_of_the_data(write):
    assert (
        len(load(config(write("a.csv", "\ufefftext,label\na,1\nb,0\n")), "classification", ("train",)).splits["train"])
        == 2
    )
    path = write("a.jsonl", '\ufeff{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    assert len(load(config(path), "classification", ("train",)).splits["train"]) == 2


def test_a_missing_path_names_the_nearest_thing_beside_it(folder, tmp_path):
    path = Path(folder(train=ROWS))
    assert f'did you mean "{path}"?' in refusal(tmp_path / "dataa")
    assert 'did you mean "' + str(path / "train.jsonl") in refusal(path / "trian.jsonl")


def test_a_hub_name_without_a_network_says_what_would_work(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refusal("no-such-owner/no-such-data")
    assert "no-such-owner/no-such-data" in message
    assert ".jsonl" in message


def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(folder):
    assert "there is train" in refusal(folder(train=ROWS), splits=("heldout",))
    assert 'did you mean "test"?' in refusal(folder(train=ROWS, test=ROWS), splits=("tset",))


def test_a_folder_without_data_says_what_it_holds(tmp_path, write):
    write("notes.txt", "x")
    assert "it holds notes.txt" in refusal(tmp_path)
    assert "no split" in refusal(write("data/stuff.jsonl", ROWS).parent)


def test_two_files_of_one_split_are_refused(write):
    write("data/train.csv", "text,label\na,1\n")
    assert 'two "train" splits' in refusal(write("data/train.jsonl", ROWS).parent)


def test_fractions_are_for_one_file(folder):
    assert "cut one file" in refusal(folder(train=ROWS), split={"train": 0.5})


def test_names_and_numbers_must_agree(write):
    rows = [{"text": "a", "label": 0, "label_text": "no"}, {"text": "b", "label": 0, "label_text": "yes"}]
    assert 'label 0 is named "yes" here and "no" before' in refusal(write("a.jsonl", rows))
    rows = [{"text": "a", "label": 0, "label_text": "no"}, {"text": "b", "label": 1, "label_text": "no"}]
    assert "labels 0 and 1 are both named" in refusal(write("b.jsonl", rows))


def test_a_score_must_be_a_finite_number(write):
    for value in ('"high"', "NaN", "true"):
        path = write("a.jsonl", f'{{"text": "a", "score": 0.5}}\n{{"text": "b", "score": {value}}}\n')
        assert "line 2: score is" in refusal(path, task="regression")
    assert "line 2: score is missing" in refusal(write("a.csv", "text,score\na,\n"), task="regression")


def test_classes_are_not_taken_for_scores_unless_that_is_said(write):
    path = write("a.jsonl", ROWS)
    assert "--columns score=label" in refusal(path, task="regression")
    data = load(config(path, columns={"score": "label"}), "regression", ("train",))
    assert data.splits["train"][1].score == 1.0


def test_an_unknown_task_is_refused_by_name(folder):
    assert 'did you mean "regression"?' in refusal(folder(train=ROWS), task="regresion")


def test_texts_to_predict_need_no_label_and_keep_one_that_is_there(write):
    path = write("a.jsonl", [{"text": "a"}, {"text": "b", "label": "x"}])
    first, second = read_texts(path)
    assert (first.text, first.label, first.meta) == ("a", None, {})
    assert second.meta == {"label": "x"}


def test_texts_to_predict_may_lack_the_label_column_of_training(write):
    path = write("a.jsonl", [{"body": "a"}])
    assert read_texts(path, {"text": "body", "label": "stars"})[0].text == "a"
    with pytest.raises(UserError, match='no column "bdoy"; did you mean "body"'):
        read_texts(path, {"text": "bdoy"})


def test_reading_json_needs_no_datasets(write):
    path = write("a.jsonl", ROWS)
    code = (
        f"import sys; from graftlm.tasks import read_texts; read_texts({str(path)!r}); print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
