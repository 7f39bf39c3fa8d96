"""A user's mistake is one line that names what would work, with exit code 2; nothing is written for it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import Command

FIT = "fit --model MODEL --data DATA --method lora --out OUT"
MISTAKES = {
    "fti": 'no command "fti"; did you mean "fit"?',
    "fit --modle minilm": 'no option "--modle"; did you mean "--model"?',
    "fit --lr abc": "invalid value for '--lr'",
    "fit --model": "option '--model' requires an argument",
    "fit a.yaml b.yaml": "unexpected extra argument",
    "fit": "--model is missing; see graftlm fit --help",
    "fit --model MODEL --data DATA --method lora": "--out is missing; see graftlm fit --help",
    "evaluate": "missing argument 'RUN'; see graftlm evaluate --help",
    "evaluate RUN": "missing option '--data'; see graftlm evaluate --help",
    f"{FIT} -o method.rnk=4": 'no option "method.rnk"; did you mean "method.rank"?',
    f"{FIT} -o traning.epochs=4": 'no option "traning"; did you mean "training"?',
    f"{FIT} -o training.epoch=4": 'no option "training.epoch"; did you mean "training.epochs"?',
    f"{FIT} -o method.rank": 'option "method.rank" has no value; write it as method.rank=VALUE',
    f"{FIT} -o method.rank=two": "option method.rank = 'two':",
    f"{FIT} -o method.rank=[": 'option "method.rank=[" line 1: not YAML',
    f"{FIT} -o method=lora -o method.rank=4": "which an earlier option set whole",
    f"{FIT} --epochs 0": "option training.epochs = 0.0:",
    f"{FIT} --precision fp8": "option training.precision = 'fp8':",
    f"{FIT} --pooling middle": "option head.pooling = 'middle':",
    f"{FIT} --columns text": '--columns "text": write it as name=value,name=value',
    f"{FIT} --columns text=txt": 'no column "txt"; did you mean "text"?',
    f"{FIT} --columns txt=text": '"txt"; did you mean "text"?',
    f"{FIT} --split train=most": '--split train = "most" is no number',
    f"{FIT} --split train=0.8,test=0.4": "the fractions add up to 1.2; 1 is the most",
    f"{FIT} --mark head": '--mark "head": name two columns, as --mark head,tail',
    f"{FIT} --task clasification": 'no task "clasification"; did you mean "classification"?',
    f"{FIT} --method lor": 'no method "lor"; did you mean "lora"?',
    f"{FIT} --model MODELS": "is a folder without config.json",
    f"{FIT} --model ./tinny": 'no model folder "./tinny"',
    f"{FIT} --model minilmm": 'no model "minilmm"; did you mean "minilm"?',
    f"{FIT} --data DATA/tran.jsonl": 'train.jsonl"?',
    f"{FIT} --out RUN": "is not empty; name another folder, or pass --overwrite",
    f"{FIT} -o training.metric=acuracy": 'no metric "acuracy"; did you mean "accuracy"?',
    f"{FIT} -o training.trackers=[tensorbord]": 'no tracker "tensorbord"; did you mean "tensorboard"?',
    f"{FIT} --shots 1000": "1000",
    "fit DATA/runn.yaml": "no config file",
    "fit DATA": "cannot be read",
    "evaluate RUN --data DATA --split tset": 'did you mean "test"?',
    "evaluate RUN --data DATA --batch-size 0": "invalid value for '--batch-size'",
    "evaluate NORUN --data DATA": "lora",
    "evaluate DATA --data DATA": "holds no finished run",
    "predict RUN": "give either --text or --file",
    "predict RUN --text a --file b": "give either --text or --file",
    "predict RUN --text a --text b --text-pair c": "2 --text but 1 --text-pair; each text needs one",
    "predict RUN --text a --text-pair b": "trained on single texts, but input 1 is a pair",
    "predict RUN --file DATA/tset.jsonl": 'test.jsonl"?',
    "predict RUN --file DATA/test.jsonl --to DATA": "is a folder; name a file",
    "predict RUN --file DATA/test.jsonl --to DATA/none/x.jsonl": "there is no folder",
    "predict NORUN --text a": "no run at",
    "merge RUN --to RUN": "exists; name a new folder",
    "merge NORUN --to OUT": "no run at",
    "sites minilmm": 'no model "minilmm"; did you mean "minilm"?',
    "sites MODEL --method lor": 'no method "lor"; did you mean "lora"?',
    "sites MODEL --method lora -o method.rnk=4": 'no option "method.rnk"; did you mean "method.rank"?',
    "sites MODEL --method lora -o rank=4": 'no option "rank" here; a method\'s options are written method.NAME=VALUE',
    "sites MODEL --method lora -o method=bitfit": "name the method with --method",
    "sites MODEL -o method.rank=4": "method.rank needs a method; name it with --method",
}


@pytest.fixture
def filled(tiny_model: Path, data: Path, trained: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """A command line with paths for its capital words."""
    paths = {"MODELS": tiny_model.parent, "MODEL": tiny_model, "DATA": data, "NORUN": trained.parent / "loar"}
    paths |= {"RUN": trained, "OUT": tmp_path / "out"}

    def fill(line: str) -> list[str]:
        words = []
        for word in line.split():
            first, *rest = word.split("/", 1)
            words.append("/".join([str(paths[first]), *rest]) if first in paths else word)
        return words

    return fill


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_would_work(
    line: str, graftlm: Command, filled: Callable[[str], list[str]], tmp_path: Path
) -> None:
    said = graftlm(*filled(line))
    assert MISTAKES[line] in said.err
    assert said.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said.err
    assert (said.code, said.out) == (2, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.xfail(strict=True, reason="the optimizer is looked up after the run's folder is made")
def test_a_wrong_optimizer_leaves_no_folder(
    graftlm: Command, filled: Callable[[str], list[str]], tmp_path: Path
) -> None:
    said = graftlm(*filled(f"{FIT} -o training.optimizer=adagradd"))
    assert said.err.endswith('no optimizer "adagradd"; did you mean "adagrad"?\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["- a\n- b", "7", ""])
def test_a_config_file_holds_options(text: str, graftlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    said = graftlm("fit", path)
    assert (said.code, said.out) == (2, "")
    assert "not options as name: value" in said.err


def test_a_config_file_that_is_no_yaml_names_its_line(graftlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: minilm\nmethod: {name: lora\n")
    said = graftlm("fit", path)
    assert said.code == 2
    assert f"error: config file {path} line 3: not YAML" in said.err


def test_a_bug_is_a_traceback_and_exit_code_1(graftlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("graftlm.recipes.sites.describe", broken)
    said = graftlm("sites", "minilm")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Traceback")
    assert said.err.rstrip().endswith("RuntimeError: a bug of ours")


def test_an_interrupt_is_exit_code_130(graftlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graftlm.recipes.sites.describe", interrupted)
    said = graftlm("sites", "minilm")
    assert (said.code, said.out, said.err) == (130, "", "interrupted\n")


def test_a_file_that_cannot_be_written_is_the_users_to_mend(graftlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/a")

    monkeypatch.setattr("graftlm.recipes.sites.describe", full)
    said = graftlm("sites", "minilm")
    assert (said.code, said.err) == (2, "error: runs/a: no space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["methods"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    program = Path(sys.executable).with_name("graftlm")
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
