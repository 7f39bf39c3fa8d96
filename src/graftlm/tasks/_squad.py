"""SQuAD: its JSON, and its rules for when an answer is right (Rajpurkar et al., 2016 and 2018, arXiv:1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graftlm.core.errors import UserError

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def flattened(body: Any, where: str) -> list[dict[str, Any]] | None:
    """The questions of a file in SQuAD's own nested JSON, an object each; None for any other content.

    Something in it that is not as SQuAD has it is an error that says where.
    """
    articles = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(articles, list) or not (articles == [] or any(map(_is_article, articles))):
        return None
    return [
        {
            "id": question.get("id"),
            "title": article.get("title"),
            "context": paragraph.get("context"),
            "question": question.get("question"),
            "answers": question.get("answers"),
        }
        for article, at in _objects(body, "data", where, f"{where} article")
        for paragraph, place in _objects(article, "paragraphs", at, f"{at}, paragraph")
        for question, _ in _objects(paragraph, "qas", place, f"{place}, question")
    ]


def _is_article(item: Any) -> bool:
    return isinstance(item, Mapping) and "paragraphs" in item


def _objects(holder: Mapping[str, Any], key: str, at: str, name: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The objects that a list in an object holds, each with its name and number."""
    items = holder.get(key)
    if not isinstance(items, list):
        raise UserError(f"{at} has no list of {key}")
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            raise UserError(f"{name} {number} is no object")
        yield item, f"{name} {number}"


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
