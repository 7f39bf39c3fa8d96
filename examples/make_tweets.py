"""How examples/data/tweets was made: the human-rated tweets of the MIT-licensed package vaderSentiment 3.3.2.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python examples/make_tweets.py vaderSentiment-3.3.2.tar.gz

4,200 tweets, each with the mean of 20 ratings from -4 to 4, as three classes: negative below -0.5, positive above
0.5, neutral between. HTML entities are decoded and repeated texts dropped; the splits are stratified by class.
"""

import argparse
import html
import io
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from graftlm.core.files import write_jsonl

ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
TWEETS = "tweets_GroundTruth.txt"
NAMES = ("negative", "neutral", "positive")
SHARES = {"validation": 0.1, "test": 0.2}
SEED = 13


def member(archive: tarfile.TarFile, ending: str) -> bytes:
    """The content of the one file whose path ends so."""
    name = next(name for name in archive.getnames() if name.endswith(ending) and not Path(name).name.startswith("._"))
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def rows(table: str) -> list[dict[str, Any]]:
    """Each tweet once, with its class and its mean rating."""
    found: dict[str, dict[str, Any]] = {}
    for line in table.splitlines():
        _, rating, text = line.split("\t", 2)
        score, words = float(rating), html.unescape(html.unescape(text)).strip()  # some were escaped twice
        label = 0 if score < -0.5 else 2 if score > 0.5 else 1
        row = {"text": words, "label": label, "label_text": NAMES[label], "score": score}
        found.setdefault(" ".join(words.lower().split()), row)
    return list(found.values())


def splits(tweets: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Stratified train, validation and test."""
    draw = random.Random(SEED)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for name in NAMES:
        own = [row for row in tweets if row["label_text"] == name]
        draw.shuffle(own)
        first = round(SHARES["validation"] * len(own))
        second = first + round(SHARES["test"] * len(own))
        parts["validation"] += own[:first]
        parts["test"] += own[first:second]
        parts["train"] += own[second:]
    for part in parts.values():
        draw.shuffle(part)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / "tweets")
    options = parser.parse_args()
    with tarfile.open(options.sdist) as sdist:
        licence = member(sdist, "LICENSE.txt")
        with tarfile.open(fileobj=io.BytesIO(member(sdist, ARCHIVE))) as inner:
            table = member(inner, TWEETS).decode("utf-8")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "LICENSE.txt").write_bytes(licence)
    for name, part in splits(rows(table)).items():
        write_jsonl(options.out / f"{name}.jsonl", part)
        print(name, len(part), dict(Counter(str(row["label_text"]) for row in part)))


if __name__ == "__main__":
    main()
