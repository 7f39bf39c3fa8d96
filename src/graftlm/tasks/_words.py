"""Where the words of a text stand: between white space, letter by letter in Chinese and Japanese, or as they are given.

A text that nobody has cut is cut at white space and at each letter of Han and Kana, whose scripts put no spaces between
words, and at each mark of CJK punctuation. Punctuation of other scripts stays with its word.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks._read import shown
from graftlm.tasks._windows import Span

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u3098\u309b-\u30ff\u31f0-\u31ff\uff66-\uff9f"
PUNCTUATION = "\u3001-\u303f\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"  # full-width ones too
MARKS = "\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"  # voicing and variants, parts of the letter before
SPACED = re.compile(r"\S+")
CUT = re.compile(rf"[{HAN}{KANA}{PUNCTUATION}][{MARKS}]*|[^\s{HAN}{KANA}{PUNCTUATION}]+")


def spaced(text: str) -> tuple[Span, ...]:
    """The characters [start, end) of each word between white space."""
    return tuple(match.span() for match in SPACED.finditer(text))


def cut(text: str) -> tuple[Span, ...]:
    """The characters [start, end) of each word of a text that nobody has cut."""
    return tuple(match.span() for match in CUT.finditer(text))


def worded(examples: Sequence[Example], words: Callable[[str], tuple[Span, ...]]) -> list[Example]:
    """The examples, those that have no words with what `words` makes of their texts."""
    return [each if each.words is not None else replace(each, words=words(each.text)) for each in examples]


def located(tokens: Sequence[str], text: str, where: str, instead: str) -> tuple[Span, ...]:
    """The characters [start, end) of tokens that follow each other in a text, with no letter or digit between.

    An error says the first token that does not, for a tokenizer's own spelling ("-LRB-") stands nowhere in the text.
    """
    spans: list[Span] = []
    end = 0
    for place, token in enumerate(tokens, 1):
        start = text.find(token, end)
        if start < 0 or any(map(str.isalnum, text[end:start])):
            raise UserError(
                f"{where}: token {place} ({shown(token)}) does not follow at {shown(text[end : end + 20])}; {instead}"
            )
        end = start + len(token)
        spans.append((start, end))
    return tuple(spans)
