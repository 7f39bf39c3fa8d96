"""The real command in a process of its own: exit code 2, one line, nothing run and nothing left."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from bad_input.cases import Case, fit, listing, prepare
from bad_input.test_adapters import WEIGHTS, flipped
from bad_input.test_data import sparse
from bad_input.test_models import pickled, remote_code


def peft_pickle() -> None:
    Path("theirs").mkdir()
    Path("theirs/adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "model"}')
    Path("theirs/adapter_model.bin").write_bytes(pickle.dumps(_Touch()))


class _Touch:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("pwned"),)


CASES = [
    Case(
        "YAML that runs a command",
        "fit a.yaml",
        "error: config file a.yaml line 1: not YAML",
        {"a.yaml": "model: !!python/object/apply:os.system ['touch pwned']\n"},
    ),
    Case("a pickle of a model", fit(), "is a pickle, which could run code, and is not read", change=pickled),
]
SLOW = [
    Case("no data", fit(data="dta"), 'error: no file or folder "dta"; did you mean "data"?'),
    Case("a pickle of PEFT's", "import theirs --out out", "is a pickle, which could run code", change=peft_pickle),
    Case("code beside a model", fit(), "error: the model", change=remote_code(model_type="own")),
    Case("a line of a gigabyte", fit(data="a.jsonl"), "error: a.jsonl line 1 is longer than 16 MiB", change=sparse),
    Case("a changed byte", "predict run --text good", "is not as it was written", change=flipped(WEIGHTS, 0.9)),
]
ALL = [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_command_refuses_and_leaves_nothing(case: Case) -> None:
    prepare(case)
    before = listing(Path())
    command = [sys.executable, "-m", "graftlm.cli.main", *case.command.split()]
    environment = {**os.environ, "TMPDIR": str(Path("tmp").resolve())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert case.said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert listing(Path()) == before
