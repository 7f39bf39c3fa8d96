"""Prompts: templates, verbalizers, and a model's own LM head at the mask."""

from graftlm.prompts._calibration import before, calibrated, empty_texts
from graftlm.prompts._filling import Filled, Filler, Token
from graftlm.prompts._finding import find, needs, start
from graftlm.prompts._interpolation import interpolated, mixture_loss
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._multi_mask import Rule, Slots, slot_scores
from graftlm.prompts._parsing import parse
from graftlm.prompts._prompt import Gap, Opening, Prompt, bound, filler_of, gapped, opened, value_of, words_of
from graftlm.prompts._reading import all_rows, read
from graftlm.prompts._seen import Seen
from graftlm.prompts._template import PAIR, TARGET, TEXT, Template
from graftlm.prompts._verbalizer import PACKAGE, Verbalizer

__all__ = [
    "PACKAGE",
    "PAIR",
    "TARGET",
    "TEXT",
    "Filled",
    "Filler",
    "Gap",
    "Lexicon",
    "Opening",
    "Prompt",
    "Rule",
    "Seen",
    "Slots",
    "Template",
    "Token",
    "Verbalizer",
    "all_rows",
    "before",
    "bound",
    "calibrated",
    "empty_texts",
    "filler_of",
    "find",
    "gapped",
    "interpolated",
    "mixture_loss",
    "needs",
    "opened",
    "parse",
    "read",
    "slot_scores",
    "start",
    "value_of",
    "words_of",
]
