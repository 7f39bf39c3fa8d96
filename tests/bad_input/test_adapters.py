"""A run's folder that was changed, damaged or made to harm is refused in a line, even where its checksums fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bad_input.cases import Call, Case, Change, refused
from sealing import Tensors, change_card, change_tensors

ADAPTER, THEIRS = Path("run/adapter"), Path("theirs")
CARD, WEIGHTS, CONFIG = (
    ADAPTER / name for name in ("graftlm.json", "adapter_model.safetensors", "adapter_config.json")
)
UP = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight"
HEAD = "base_model.model.classifier.weight"
ASK = "predict run --text good"
IMPORT = "import theirs --out out"


def card(**changes: Any) -> Change:
    return lambda: change_card(ADAPTER, changes)


def tensors(change: Callable[[Tensors], object]) -> Change:
    def changed(found: Tensors) -> Tensors:
        change(found)
        return found

    return lambda: change_tensors(ADAPTER, changed)


def unsealed(**changes: Any) -> Change:
    return lambda: CARD.write_text(json.dumps(json.loads(CARD.read_text()) | changes))


def flipped(path: Path, place: float) -> Change:
    def changed() -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)

    return changed


def cut(path: Path, keep: float) -> Change:
    return lambda: path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def huge(path: Path) -> Change:
    """A file of two gigabytes that takes no room."""

    def made() -> None:
        with path.open("wb") as file:
            file.truncate(2 << 30)

    return made


def link(path: Path, to: str) -> Change:
    def made() -> None:
        path.unlink()
        path.symlink_to(to)

    return made


def another_base() -> None:
    path = Path("model/model.safetensors")
    weights = load_file(path)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def pairs() -> None:
    row = {"premise": "a", "hypothesis": "b", "label": "good"}
    Path("data/test.jsonl").write_text(json.dumps(row) + "\n")


def theirs(change: Change | None = None, **body: Any) -> Change:
    """The run as PEFT has it, changed."""

    def made() -> None:
        THEIRS.mkdir()
        config = json.loads(CONFIG.read_text())
        (THEIRS / CONFIG.name).write_text(json.dumps({**config, **body}))
        shutil.copy(WEIGHTS, THEIRS)
        if change is not None:
            change()

    return made


def in_theirs(change: Callable[[Tensors], object]) -> Change:
    def changed() -> None:
        path = THEIRS / WEIGHTS.name
        found = load_file(path)
        change(found)
        save_file(found, path)

    return changed


def text(path: Path, content: str | bytes) -> Change:
    return lambda: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def ask(name: str, said: str, change: Change) -> Case:
    return Case(name, ASK, said, change=change)


def read(name: str, said: str, change: Change | None = None, **body: Any) -> Case:
    return Case(name, IMPORT, said, change=theirs(change, **body))


CASES = [
    Case("no run", "predict rum --text good", "no run at rum; there is run"),
    Case("a file for a run", "predict run/run.json --text good", "run/run.json is a file; a run is a folder"),
    Case("a folder that is no run", "predict data --text good", "data holds no finished run"),
    Case(
        "an adapter of PEFT's",
        "predict theirs --text good",
        "theirs is an adapter of PEFT's, not a run; graftlm import",
        change=theirs(),
    ),
    ask("another base", 'run was trained on another "model": its fingerprint is', another_base),
    ask("a base that is gone", "no model", lambda: shutil.rmtree("model")),
    ask("a base outside", 'no model folder "../../etc"', unsealed(model="../../etc")),
    ask("a base with a NUL", "a name holds no NUL", unsealed(model="mo\0del")),
    Case(
        "data of another task",
        "evaluate run --data data",
        "no label column",
        change=lambda: Path("data/test.jsonl").write_text('{"text": "a", "score": 0.5}\n'),
    ),
    Case(
        "labels of another task",
        "evaluate run --data data",
        'label "fine" is not among those of the run: bad, good',
        change=lambda: Path("data/test.jsonl").write_text('{"text": "a", "label": "fine"}\n'),
    ),
    Case(
        "pairs for a run of single texts",
        "evaluate run --data data",
        "run was trained on single texts, and data has pairs",
        change=pairs,
    ),
    Case("no such split", "evaluate run --data data --split tset", 'no split "tset" in data; did you mean "test"?'),
    ask("a task that is not there", 'no task "x"', card(task="x")),
    ask(
        "a task with other outputs",
        "head.weight has shape (2, 16); (1, 16) is needed",
        card(task="regression", labels=[]),
    ),
    ask("more labels than outputs", "head.weight has shape (2, 16); (3, 16) is needed", card(labels=["a", "b", "c"])),
    ask("labels alike", "labels differ", card(labels=["a", "a"])),
    ask("a method that is not there", 'no method "x"', card(method={"name": "x"})),
    ask("a method without a name", "a method has a name", card(method={})),
    ask(
        "another method",
        "0.attention.query.down has shape (8, 16); (2, 16) is needed",
        card(method={"name": "lora", "rank": 2}),
    ),
    ask("an option of another method", "method.length", card(method={"name": "lora", "length": 2})),
    ask("no head", "do not fit it: 1 missing (first: head.weight)", tensors(lambda t: t.pop(HEAD))),
    ask("no half of a pair", "do not fit it: 1 missing (first: 0.attention.query.up)", tensors(lambda t: t.pop(UP))),
    ask("an extra tensor", "../../etc/passwd", tensors(lambda t: t.update({"../../etc/passwd": torch.ones(1)}))),
    ask("a tensor of no elements", "has no elements", tensors(lambda t: t.update({UP: torch.ones(0, 8)}))),
    ask("a tensor of another shape", "shape", tensors(lambda t: t.update({UP: torch.ones(3, 8)}))),
    ask(
        "a tensor of whole numbers",
        f"{UP} holds torch.int64, and weights are fractions",
        tensors(lambda t: t.update({UP: t[UP].long()})),
    ),
    ask("a tensor of complex numbers", "torch.complex64", tensors(lambda t: t.update({UP: t[UP].to(torch.complex64)}))),
    ask("a tensor that is not finite", "gives no finite number", tensors(lambda t: t[HEAD].fill_(torch.nan))),
    ask("a byte of the weights", "is not as it was written: its checksum begins with", flipped(WEIGHTS, 0.9)),
    ask("a byte of the header", "is not as it was written", flipped(WEIGHTS, 0.01)),
    ask("a byte of PEFT's config", "is not as it was written", flipped(CONFIG, 0.5)),
    ask("a number of the card", "graftlm.json is not as it was written", unsealed(max_length=3)),
    ask("labels in another order", "graftlm.json is not as it was written", unsealed(labels=["good", "bad"])),
    ask("no checksums", "checksums are needed", unsealed(checksums={})),
    ask("cut weights", "is not as it was written", cut(WEIGHTS, 0.5)),
    ask("no weights", "adapter_model.safetensors is missing", WEIGHTS.unlink),
    ask("no config", "adapter_config.json is missing", CONFIG.unlink),
    ask("a link to nothing", "adapter_model.safetensors is missing", link(WEIGHTS, "nothing")),
    ask("a link to itself", "adapter_model.safetensors is missing", link(WEIGHTS, WEIGHTS.name)),
    ask("a link to another file", "is not as it was written", link(WEIGHTS, "/etc/passwd")),
    ask("a link to a device", "adapter_model.safetensors is no file", link(WEIGHTS, "/dev/zero")),
    ask("a cut card", "is not a readable adapter card", cut(CARD, 0.5)),
    ask("an empty card", "is not a readable adapter card", text(CARD, "")),
    ask("a card that is a list", "is of version None; this graftlm reads 3", text(CARD, "[]")),
    ask("a card of another version", "is of version 9; this graftlm reads 3", unsealed(version=9)),
    ask("a card with more", 'no option "more"', unsealed(more=1)),
    ask("a card of other kinds", "option labels = 3", unsealed(labels=3)),
    ask("a card that is not UTF-8", "is not a readable adapter card", text(CARD, b"\xff")),
    ask("a deep card", "is not a readable adapter card", text(CARD, "[" * 100_000)),
    ask("a huge card", "graftlm.json is larger than 64 MiB", huge(CARD)),
    ask("a data note of another kind", "cut.split is of another kind", card(data={"cut": {"split": 3, "file": ""}})),
    read("PEFT: no base", 'no model folder "../../none"', base_model_name_or_path="../../none"),
    read(
        "PEFT: base of another kind",
        "adapter_config.json: option base_model_name_or_path = ['model']",
        base_model_name_or_path=["model"],
    ),
    read("PEFT: unknown type", 'no peft_type that can be read "X"', peft_type="X"),
    read("PEFT: rank of another kind", "adapter_config.json: option r = 'x'", r="x"),
    read("PEFT: rank of nothing", "adapter_config.json: option r = 0", r=0),
    read("PEFT: a rank too large", "adapter_config.json", r=1 << 40),
    read("PEFT: a scale that is no number", "adapter_config.json: option lora_alpha = 'x'", lora_alpha="x"),
    read("PEFT: a scale without end", "adapter_config.json: option lora_alpha = inf", lora_alpha=float("inf")),
    read("PEFT: targets of another kind", "adapter_config.json: option target_modules", target_modules=5),
    read(
        "PEFT: targets elsewhere", "target_modules in adapter_config.json does not name", target_modules=["../../query"]
    ),
    read("PEFT: targets that are no regex", "not a regex", target_modules="(query"),
    read("PEFT: patterns of another kind", "adapter_config.json: option rank_pattern", rank_pattern=["query"]),
    read("PEFT: modules of another kind", "adapter_config.json: option modules_to_save", modules_to_save=3),
    read("PEFT: an unknown key", "new_trick = 3", new_trick=3),
    read("PEFT: a list", "does not hold a config but list", text(THEIRS / CONFIG.name, "[]")),
    read("PEFT: a deep config", "is not a readable PEFT config", text(THEIRS / CONFIG.name, "[" * 100_000)),
    read("PEFT: a huge config", "is larger than 64 MiB", huge(THEIRS / CONFIG.name)),
    read("PEFT: cut weights", "is not a readable safetensors file", cut(THEIRS / WEIGHTS.name, 0.5)),
    read("PEFT: no elements", "has no elements", in_theirs(lambda t: t.update({UP: torch.ones(0, 8)}))),
    read(
        "PEFT: an extra tensor", "../../etc/passwd", in_theirs(lambda t: t.update({"../../etc/passwd": torch.ones(1)}))
    ),
    read(
        "PEFT: weights that are a pickle",
        "is a pickle, which could run code, and is not read",
        lambda: (THEIRS / WEIGHTS.name).rename(THEIRS / "adapter_model.bin"),
    ),
    Case("import from nowhere", "import nowhere --out out", "nowhere is no folder"),
    Case(
        "merge into a link to nothing",
        "merge run --to link",
        "link is a link to nothing",
        change=lambda: Path("link").symlink_to("no"),
    ),
    Case(
        "export into a link to nothing",
        "export run --peft link",
        "link is a link to nothing",
        change=lambda: Path("link").symlink_to("no"),
    ),
    Case("export onto a file", "export run --peft run/run.json", "run/run.json exists; name a new folder"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_adapter_is_refused(case: Case, graftlm: Call) -> None:
    refused(case, graftlm)


def test_a_base_that_has_moved_may_be_named_anew(graftlm: Call) -> None:
    expected = graftlm(*ASK.split())[1]
    shutil.move("model", "elsewhere")
    unsealed(model="elsewhere")()
    assert graftlm(*ASK.split())[:2] == (0, expected)


def test_a_run_that_is_a_link_is_read(graftlm: Call) -> None:
    expected = graftlm(*ASK.split())[1]
    shutil.move("run", "elsewhere")
    Path("run").symlink_to("elsewhere")
    assert graftlm(*ASK.split())[:2] == (0, expected)
