"""Relations between marked entities, in a small set that is derived from the entities of a real one."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import graftlm
import tiny
from folders import saved
from graftlm.core.settings import DataConfig
from graftlm.tasks import load

PER_SPLIT = {"train": 48, "validation": 16}


def entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """BIO tags as (type, first, last) words."""
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((tag[2:], place, place))
        elif tag.startswith("I-") and found:
            found[-1] = (found[-1][0], found[-1][1], place)
    return found


def relations(path: Path, most: int) -> list[dict[str, Any]]:
    """Neighbouring entities of a text; their types are the relation."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        words, spans, start = row["tokens"], [], 0
        for word in words:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        for one, other in pairwise(entities(row["ner_tags"])):
            head, tail = ([spans[first][0], spans[last][1]] for _, first, last in (one, other))
            rows.append({"text": " ".join(words), "head": head, "tail": tail, "label": f"{one[0]}-{other[0]}"})
    return rows[:most]


def test_relations_between_entities_of_a_real_set_are_marked_and_learned(shared: Any, tmp_path: Path) -> None:
    source, folder = Path(shared("wikigold_ner")), tmp_path / "data"
    folder.mkdir()
    for split, most in PER_SPLIT.items():
        rows = relations(source / f"{split}.jsonl", most)
        known = {row["label"] for row in relations(source / "train.jsonl", PER_SPLIT["train"])}
        lines = [json.dumps(row) for row in rows if row["label"] in known]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = load(DataConfig(path=str(folder), mark=("head", "tail")), "classification")
    assert len(data.labels) > 3
    for example in data.splits["train"]:
        assert all(example.text.count(marker) == 1 for marker in ("[E1] ", " [/E1]", "[E2] ", " [/E2]"))
    run = graftlm.fit(
        model=saved(tiny.model("bert"), tmp_path / "base"),
        data={"path": str(folder), "mark": ["head", "tail"]},
        method="lora",
        out=tmp_path / "run",
        training={"max_steps": 3, "batch_size": 8},
    )
    assert set(run.metrics) == {"accuracy", "macro_f1", "matthews", "loss"}
    again = graftlm.evaluate(tmp_path / "run", str(folder), "validation")
    assert again.metrics == run.metrics
