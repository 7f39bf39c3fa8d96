"""Options that do not exist, do not fit or do not go together are refused by name, before anything is written."""

from pathlib import Path

import pytest

from bad_input.cases import Call, Case, fit, refused

BOMB = ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}' if n else 'lol'] * 9)}]" for n in range(30))  # 9 ** 30 texts
REST = "data: data\nmethod: lora\nout: out\n"


def option(text: str, said: str, **flags: str | None) -> Case:
    """A case of one `-o`."""
    return Case(text, fit(f"-o '{text}'", **flags), said)


def config(name: str, text: str | bytes, said: str) -> Case:
    """A case of a YAML file."""
    return Case(name, "fit a.yaml", said, {"a.yaml": text})


CASES = [
    Case("unknown command", "fti --model model", 'no command "fti"; did you mean "fit"?'),
    Case("unknown flag", fit("--epoch 1"), 'no option "--epoch"; did you mean "--epochs"?'),
    Case(
        "a flag's value of another kind",
        fit("--seed many"),
        "error: --seed many: input should be a whole number; see graftlm fit --help",
    ),
    Case("a whole number with a fraction", fit("--seed 1.5"), "error: --seed 1.5: input should be a whole number"),
    Case("a number behind =", fit("--lr=x"), "error: --lr x: input should be a number; see graftlm fit --help"),
    Case("an option that is an argument", "methods --name lora", 'error: no option "--name"; '),
    Case("unknown method", fit(method="lroa"), 'no method "lroa"; did you mean "lora"?'),
    Case("LoRA+ as a method", fit(method="lora+"), 'LoRA+ is an option of lora: method "lora" with method.plus=16'),
    Case("several methods", fit(method="lora,bitfit"), "a union is written with +, and compare takes --methods"),
    Case("unknown task", fit("--task clasification"), 'no task "clasification"; did you mean "classification"?'),
    option("traning.epochs=1", 'no option "traning"; did you mean "training"?'),
    option("training.epoch=1", 'no option "training.epoch"; did you mean "training.epochs"?'),
    option("method.rnk=4", 'no option "method.rnk"; did you mean "method.rank"?'),
    option("method.length=4", 'no option "method.length"'),
    option("method.rank=4", 'no option "method.rank"', method="prefix"),
    option("method.rank=0", "option method.rank = 0: input should be greater than 0"),
    option("method.rank=many", "option method.rank = 'many': input should be a whole number"),
    option("method.rank=2.5", "option method.rank = 2.5: input should be a whole number"),
    option("training.trackers=3", "option training.trackers = 3: input should be a list, as [A, B]"),
    option("training.trackers=[3]", "option training.trackers.0 = 3: input should be a text"),
    option("training=3", "option training = 3: input should be options as name: value"),
    option("training.base_dropout=perhaps", "option training.base_dropout = 'perhaps': input should be true or false"),
    option("training.schedule=3", "option training.schedule = 3: input should be 'linear', 'cosine' or 'constant'"),
    option("data.columns=3", "option data.columns = 3: input should be options as name: value"),
    option("data.mark=[a, b, c]", "option data.mark = ['a', 'b', 'c']: 3 are given; at most 2"),
    option(
        "method.rank=1000000000000", "run (lora) would train 128,000,000,000,000 numbers, which take 2,048,000.0 GB"
    ),
    option("method.length=100000000000", "would train 1,600,000,000,000 numbers", method="prompt-tuning"),
    option("method.length=100000000001", "would train 1,600,000,041,552 numbers", method="prefix"),
    option("method.dropout=1", "option method.dropout = 1"),
    option("method.sites=[attention.qery]", "attention.qery"),
    option("training.epochs=0", "option training.epochs = 0"),
    option("training.epochs=.nan", "option training.epochs = nan"),
    option("training.learning_rate=.inf", "option training.learning_rate = inf: input should be a finite number"),
    option("training.weight_decay=-1", "option training.weight_decay = -1"),
    option("training.warmup=1.5", "option training.warmup = 1.5: input should be less than 1"),
    option("training.batch_size=-8", "option training.batch_size = -8"),
    option("training.precision=fp8", "option training.precision = 'fp8': input should be 'fp32' or 'bf16'"),
    option("training.optimizer=adamwx", 'no optimizer "adamwx"; did you mean "adamw"?'),
    option("training.optimizer=sparseadam", 'no optimizer "sparseadam"'),
    option("training.metric=f1", 'no metric "f1"; there is accuracy, loss, macro_f1, matthews'),
    option("training.trackers=[tensorbord]", 'no tracker "tensorbord"; did you mean "tensorboard"?'),
    option("training.max_length=1000", "max_length = 1000, but model leaves 32 positions for text"),
    option("training.max_length=1", "max_length = 1 leaves no token for a text beside the 2 that frame it"),
    option("seed=-1", "option seed = -1"),
    option("seed=1000000000000000000000000", "option seed = 1000000000000000000000000"),
    Case("no columns", fit("--columns ''"), '--columns "": write it as name=value,name=value'),
    Case("a shots' seed too large", fit("--shots 2 --shots-seed 9999999999"), "option data.shots_seed = 9999999999"),
    option("data.limit={trian: 5}", 'no split "trian"; did you mean "train"?'),
    option("data.split={train: 0.9, test: 0.9}", "option data = "),
    option("data.split={train: .inf}", "option data.split"),
    option("method", 'option "method" has no value; write it as method=VALUE'),
    option("=5", 'option "=5" has no value; write it as name=VALUE'),
    option("training.epochs=[", "not YAML"),
    Case(
        "a part of what was set whole",
        fit("-o training=3 -o training.epochs=1"),
        'option "training.epochs=1" sets a part of training, which an earlier option set whole',
    ),
    Case("fractions of a folder", fit("--split train=0.5"), "split fractions cut one file"),
    Case(
        "dora beside pissa", fit("-o method.dora=true -o method.init=pissa"), "dora = true and init = pissa do not go"
    ),
    Case("base dropout nobody has", fit("-o training.base_dropout=maybe"), "option training.base_dropout = 'maybe'"),
    Case("out is a file", fit(out="a.txt"), "out = a.txt is a file; name a folder", {"a.txt": "mine"}),
    Case("out is in use", fit(out="used"), "used is not empty; name another folder", {"used/a.txt": "mine"}),
    Case("out below a file", fit(out="a.txt/run"), "a.txt/run: not a directory", {"a.txt": "mine"}),
    Case(
        "out is a link to nowhere",
        fit(out="link"),
        "out = link is a link to nothing",
        change=lambda: Path("link").symlink_to("nowhere/at/all"),
    ),
    Case("out with a long name", fit(out="a" * 300), "file name too long"),
    config("YAML that is a list", "- model\n- data\n", "config file a.yaml holds a list, not options as name: value"),
    config("YAML that is empty", "", "config file a.yaml holds nothing"),
    config("YAML that is broken", "model: [model\ndata: data\n", "config file a.yaml line 2: not YAML"),
    config("YAML with tabs", "training:\n\tepochs: 1\n", "config file a.yaml line 2: not YAML"),
    config(
        "YAML keys twice", f"model: model\nmodel: minilm\n{REST}", 'config file a.yaml line 2: "model" stands twice'
    ),
    config("YAML keys twice, below", "training:\n  epochs: 1\n  epochs: 2\n", 'line 3: "epochs" stands twice'),
    config(
        "YAML that builds an object", "model: !!python/object/apply:os.system ['touch pwned']\n", "line 1: not YAML"
    ),
    config("YAML with a module", "model: !!python/module:os\n", "line 1: not YAML"),
    config("YAML that is a bomb", f"model: [{BOMB}]\n{REST}", "option model = [["),
    config("YAML of itself", f"model: &a [*a]\n{REST}", "option model = "),
    config("deep YAML", "model: " + "[" * 50_000, "config file a.yaml: nested too deep"),
    config("keys that are no text", f"1: 2\nmodel: model\n{REST}", "line 1: the key 1 is no text; write it in quotes"),
    config("YAML that is not UTF-8", b"model: \xff\n", "config file a.yaml cannot be read"),
    config("NUL in a name", 'model: "a\\0b"\n' + REST, "option model = 'a\\x00b': a name holds no NUL"),
    config("method without a name", "model: model\ndata: data\nmethod: {rank: 4}\nout: out\n", "method needs a name"),
    config("method of another kind", "model: model\ndata: data\nmethod: 3\nout: out\n", "option method = 3"),
    config(
        "data without a path", "model: model\ndata: {shots: 3}\nmethod: lora\nout: out\n", "option data.path is missing"
    ),
    Case(
        "a prompt's options without a template",
        fit("--calibration pmi --mlm-weight 0.1"),
        "calibration, mlm_weight are of a prompt, which needs a template too, as --template '{text} It was {mask}.'",
    ),
    Case("no such config", "fit b.yaml", 'no config file "b.yaml"; did you mean "a.yaml"?', {"a.yaml": ""}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_options_are_refused(case: Case, graftlm: Call) -> None:
    refused(case, graftlm)
