"""SQuAD: its JSON, and its rules for when an answer is right (Rajpurkar et al., 2016 and 2018, arXiv:1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def flattened(body: Any) -> list[dict[str, Any]] | None:
    """The questions of a file in SQuAD's own nested JSON, an object each; None for any other content."""
    articles = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(articles, list) or not all(
        isinstance(each, Mapping) and "paragraphs" in each for each in articles
    ):
        return None
    return [
        {
            "id": question.get("id"),
            "title": article.get("title"),
            "context": paragraph.get("context"),
            "question": question.get("question"),
            "answers": question.get("answers"),
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def normalised(text: str) -> list[str]:
    """The words that count: lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def exact(answer: str, right: Sequence[str]) -> float:
    """Whether an answer is one of the right ones; without any, whether it is empty."""
    return float(any(normalised(answer) == normalised(one) for one in right or [""]))


def f1(answer: str, right: Sequence[str]) -> float:
    """The best word F1 of an answer with one of the right ones; without any, whether it is empty."""
    return max(_overlap(normalised(answer), normalised(one)) for one in right or [""])


def _overlap(answer: Sequence[str], right: Sequence[str]) -> float:
    if not answer or not right:
        return float(not answer and not right)
    common = sum((Counter(answer) & Counter(right)).values())
    return 2 * common / (len(answer) + len(right))
