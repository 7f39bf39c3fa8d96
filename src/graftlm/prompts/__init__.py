"""Prompts: templates, verbalizers, and a model's own LM head at the mask."""

from graftlm.prompts._filling import Filled, Filler, Token
from graftlm.prompts._parsing import parse
from graftlm.prompts._prompt import Opening, Prompt, bound, filler_of, opened, value_of, words_of
from graftlm.prompts._reading import all_rows, read
from graftlm.prompts._template import PAIR, TARGET, TEXT, Template
from graftlm.prompts._verbalizer import PACKAGE, Verbalizer

__all__ = [
    "PACKAGE",
    "PAIR",
    "TARGET",
    "TEXT",
    "Filled",
    "Filler",
    "Opening",
    "Prompt",
    "Template",
    "Token",
    "Verbalizer",
    "all_rows",
    "bound",
    "filler_of",
    "opened",
    "parse",
    "read",
    "value_of",
    "words_of",
]
