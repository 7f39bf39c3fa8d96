"""A mistake is one line that names what would work, exit code 2, and leaves nothing behind; a bug is 1."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graftlm.cli import main
from graftlm.core.errors import UserError

Command = Callable[..., tuple[int, str, str]]


def _fit(model: str, data: str, *more: str, without: str = "") -> list[str]:
    flags = {"--model": model, "--data": data, "--method": "lora", "--out": "out"}
    return ["fit", *(part for flag in flags.items() if flag[0] != without for part in flag), *more]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fitt", 'no command "fitt"; did you mean "fit"?'),
        ("fit --modle x", 'no option "--modle"; did you mean "--model"?'),
        ("fit -x 1", 'no option "-x"; did you mean "-o"?'),
        ("fit --seed some", "--seed some: input should be a whole number"),
        ("fit --model", "'--model' requires an argument"),
        ("fit", "--model is missing; see graftlm fit --help"),
        ("fit --columns text", '--columns "text": write it as name=value,name=value'),
        ("fit --columns text=a,text=b", '--columns "text=a,text=b" names text twice'),
        ("fit --columns text=a,", '--columns "text=a,": write it as name=value,name=value'),
        ("fit --split train=most", '--split train = "most" is no number'),
        ("fit --mark head", '--mark "head": name two columns, as --mark head,tail'),
        ("fit -o method.rank", "has no value; write it as method.rank=VALUE"),
        ("fit none.yaml", 'no config file "none.yaml"'),
        ("evaluate", "give either a run's folder, or --model with --template and --verbalizer"),
        ("evaluate out", "--data is missing; see graftlm evaluate --help"),
        ("evaluate out --data x --batch-size 0", "'--batch-size'"),
        ("evaluate out --data x --cut test=2", "the fractions add up to 2; 1 is the most"),
        ("evaluate out --data x", "no run at out"),
        ("predict out", "give either --text or --file"),
        ("predict out --text a --file b", "give either --text or --file"),
        ("predict out --text a --text-pair b --text-pair c", "1 --text but 2 --text-pair; each text needs one"),
        ("predict out --text \udcff", "is not UTF-8"),
        ("predict out --text a --to .", "--to . is a folder; name a file"),
        ("predict out --text a --to none/x", "--to none/x: there is no folder none"),
        ("predict out --text a", "no run at out"),
        ("merge out --to merged", "no run at out"),
        ("export out --peft theirs", "no run at out"),
        ("export out", "missing option '--peft'"),
        ("import theirs --out out", "theirs is no folder; an adapter of PEFT's is one with adapter_config.json"),
        ("import theirs --labels a,,b --out out", '--labels "a,,b" has an empty name; write them as a,b'),
        ("sites", "missing argument 'MODEL'"),
        ("sites minilmm", 'did you mean "minilm"?'),
        ("sites ./none", 'no model folder "./none"'),
        ("sites minilm -o rank=4", "a method's options are written method.NAME=VALUE"),
        ("sites minilm -o method.rank=4", "method.rank needs a method; name it with --method"),
        ("sites minilm -o method=lora", "name the method with --method"),
        ("methods lor", 'no method "lor"; did you mean "lora"?'),
        ("methods LoRA", 'no method "LoRA"; did you mean "lora"?'),
        ("methods lora head", "unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_work(arguments: str, said: str, graftlm: Command) -> None:
    found, out, err = graftlm(*arguments.split(" "))
    assert (found, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("more", "without", "said"),
    [
        (["--method", "lor"], "--method", 'no method "lor"; did you mean "lora"?'),
        (["--model", "./nowhere"], "--model", 'no model folder "./nowhere"'),
        (["--data", "./nowhere"], "--data", "nowhere"),
        (["--task", "clasification"], "", 'no task "clasification"; did you mean "classification"?'),
        (["--columns", "text=txt"], "", '"txt"'),
        (["-o", "method.rnk=4"], "", 'no option "method.rnk"; did you mean "method.rank"?'),
        (["-o", "method.rank=0"], "", "method.rank = 0"),
        (["-o", "training.epoch=1"], "", 'no option "training.epoch"; did you mean "training.epochs"?'),
        (["-o", "training.metric=acuracy"], "", 'no metric "acuracy"; did you mean "accuracy"?'),
        (["-o", "training.optimizer=adamww"], "", 'did you mean "adamw"?'),
        (["-o", "training.trackers=[tensorbord]"], "", 'no tracker "tensorbord"; did you mean "tensorboard"?'),
        (["-o", "training.trackers=[aim]"], "", "tracker aim is not installed"),
        (["-o", "task.nme=3"], "", 'task.nme: the task "classification" has no options'),
        (["--data", ""], "--data", "--data is empty"),
        (["--pooling", "max"], "", "head.pooling = 'max'"),
        (["--precision", "fp8"], "", "training.precision = 'fp8'"),
        (["--lr", "-1"], "", "training.learning_rate = -1.0"),
        (["--shots", "1000"], "", "1000"),
        (["--split", "train=0.5"], "", "fractions"),
    ],
)
def test_a_wrong_option_of_fit_is_named_and_nothing_is_written(
    more: list[str], without: str, said: str, graftlm: Command, model: str, data: str
) -> None:
    found, out, err = graftlm(*_fit(model, data, *more, without=without))
    assert (found, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not Path("out").exists()


@pytest.mark.parametrize(("drop", "more"), [("--data", ()), ("--method", ()), ("--out", ()), ("--model", ())])
def test_what_a_run_cannot_do_without_is_asked_for(
    drop: str, more: tuple[str, ...], graftlm: Command, model: str, data: str
) -> None:
    assert graftlm(*_fit(model, data, *more, without=drop))[::2] == (
        2,
        f"error: {drop} is missing; see graftlm fit --help\n",
    )


def test_a_full_folder_is_kept_unless_it_may_be_replaced(graftlm: Command, model: str, data: str) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    found, _, err = graftlm(*_fit(model, data))
    assert (found, "--overwrite" in err, list(Path("out").iterdir())) == (2, True, [Path("out/mine.txt")])


def test_a_place_that_cannot_be_written_is_named(graftlm: Command, model: str, data: str) -> None:
    Path("file").write_text("")
    found, _, err = graftlm(*_fit(model, data, "--out", "file/out", without="--out"))
    assert found == 2
    assert err.splitlines()[-1] == "error: cannot write file/out: not a directory; name a folder that can be written to"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "config file mine.yaml holds a list, not options as name: value"),
        ("", "config file mine.yaml holds nothing"),
        ("lora", "config file mine.yaml holds the one value 'lora'"),
        ("model: [", "config file mine.yaml line"),
        ("modle: minilm\nmodel: m\ndata: d\nmethod: lora\nout: o\n", 'no option "modle"; did you mean "model"?'),
        ("model: m\ndata: d\nmethod: 3\nout: o\n", "option method = 3"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_wrong_config_file_is_refused(text: str, said: str, graftlm: Command) -> None:
    Path("mine.yaml").write_text(text)
    found, out, err = graftlm("fit", "mine.yaml")
    assert (found, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_config_file_that_does_not_exist_names_the_nearest(graftlm: Command) -> None:
    Path("tweets.yaml").write_text("")
    assert graftlm("fit", "tweet.yaml")[2] == 'error: no config file "tweet.yaml"; did you mean "tweets.yaml"?\n'
    Path("folder.yaml").mkdir()
    assert "config file folder.yaml cannot be read" in graftlm("fit", "folder.yaml")[2]


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(main, "app", app)


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (UserError("this\nand that"), 2, "error: this and that\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: x: permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_codes(
    error: BaseException, expected: int, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _raising(error, monkeypatch)
    assert main.code(["methods"]) == expected
    assert capfd.readouterr().err == said


def test_an_interrupted_command_exits_with_130(graftlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graftlm.core.registry.facts", interrupted)
    assert graftlm("methods") == (130, "", "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "No such file", "x")])
def test_a_bug_shows_its_traceback_and_exits_with_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _raising(error, monkeypatch)
    assert main.code(["methods"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["graftlm", "fitt"])
    with pytest.raises(SystemExit, match="2"):
        main.main()


def test_a_reader_that_leaves_early_is_no_bug() -> None:
    shell = f"{sys.executable} -m graftlm.cli.main methods | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "m", "")


def test_answers_do_not_replace_the_file_that_standard_input_is(run: Path) -> None:
    Path("a.jsonl").write_text('{"text": "a day"}\n')
    words = [sys.executable, "-m", "graftlm.cli.main", "predict", str(run), "--file", "-", "--to", "a.jsonl"]
    with Path("a.jsonl").open() as file:
        done = subprocess.run(words, stdin=file, capture_output=True, text=True, check=False)
    assert (done.returncode, "--to a.jsonl is the file of the texts" in done.stderr) == (2, True)
    assert Path("a.jsonl").read_text() == '{"text": "a day"}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"good day\n\xff\n", "standard input line 2 is not UTF-8"),
        (b"\n\n", "standard input holds no texts"),
        (b'{"text": "a"}\n{"text": 3}\n', "standard input"),
        (b"{", "standard input"),
    ],
)
def test_bad_standard_input_is_named(
    content: bytes, said: str, run: Path, graftlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    found, out, err = graftlm("predict", str(run), "--file", "-")
    assert (found, out) == (2, "")
    assert said in err
