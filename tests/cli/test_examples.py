"""The demo, its data, and the script that made it."""

import html
import io
import json
import runpy
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SPLITS = ("train", "validation", "test")


def _tweets(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_tweets_are_what_their_readme_says() -> None:
    splits = {split: _tweets(EXAMPLES / "data" / "tweets", split) for split in SPLITS}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2898, "validation": 414, "test": 828}
    rows = [row for own in splits.values() for row in own]
    for row in rows:
        label = 0 if row["score"] < -0.5 else 2 if row["score"] > 0.5 else 1
        assert (row["label"], row["label_text"]) == (label, ("negative", "neutral", "positive")[label])
        assert row["text"] == html.unescape(row["text"]).strip() != ""
    assert max(Counter(" ".join(row["text"].lower().split()) for row in rows).values()) == 1
    assert "MIT License" in (EXAMPLES / "data" / "tweets" / "LICENSE.txt").read_text()


def test_the_script_makes_splits_from_an_sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{place}\t{place % 5 - 2}\ttweet {place} &amp;amp; so on" for place in range(100)]
    table = "\n".join([*lines, "100\t2\tTweet  4 &amp; so on"]).encode()
    inner = io.BytesIO()
    _pack(inner, "w:gz", {"hutto_ICWSM_2014/tweets_GroundTruth.txt": table})
    archive = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    _pack(tmp_path / "sdist.tar.gz", "w:gz", {"v/LICENSE.txt": b"The MIT License", archive: inner.getvalue()})
    arguments = ["make_tweets.py", str(tmp_path / "sdist.tar.gz"), "--out", str(tmp_path / "made")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / "make_tweets.py"), run_name="__main__")
    assert (tmp_path / "made" / "LICENSE.txt").read_bytes() == b"The MIT License"
    splits = {split: _tweets(tmp_path / "made", split) for split in SPLITS}
    assert {split: Counter(row["label_text"] for row in rows) for split, rows in splits.items()} == {
        "train": {"negative": 28, "neutral": 14, "positive": 28},
        "validation": {"negative": 4, "neutral": 2, "positive": 4},
        "test": {"negative": 8, "neutral": 4, "positive": 8},
    }
    assert all(row["text"].endswith("& so on") for rows in splits.values() for row in rows)


def _pack(to: Any, mode: Any, files: dict[str, bytes]) -> None:
    with tarfile.open(to if isinstance(to, Path) else None, mode, fileobj=None if isinstance(to, Path) else to) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.real
def test_the_demo_compares_eight_methods_and_asks_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of it, on fewer tweets and steps."""
    demo = runpy.run_path(str(EXAMPLES / "demo.py"))
    few = {**demo["DATA"], "shots": 2, "limit": {"test": 20}}
    monkeypatch.setitem(demo["main"].__globals__, "DATA", few)
    monkeypatch.setitem(demo["main"].__globals__, "TRAINING", {"max_steps": 2, "batch_size": 2})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--text", "a sentence of my own"])
    demo["main"]()
    out, err = capfd.readouterr()
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert len(demo["METHODS"]) == 8
    assert all(
        any(name.startswith(method) and "3/3" in row for name, row in rows.items()) for method in demo["METHODS"]
    )
    assert "the best on validation, is asked" in out
    assert out.splitlines()[-2].startswith("a sentence of my own  ")
    assert len(list((tmp_path / "runs/demo/runs").iterdir())) == 24
    assert err.splitlines()[-1] == "The report: runs/demo/report.html"
    assert (tmp_path / "runs/demo/report.html").is_file()
