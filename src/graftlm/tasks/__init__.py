"""Task families: a file each; data, features and heads that they share."""

from graftlm.tasks._data import load, read_candidates, read_texts
from graftlm.tasks._features import Encoded, Features, Reading, collate, encode, read_places
from graftlm.tasks._head import NOWHERE, SequenceHead, TokenHead, VectorHead, guessed_head, head_keys, must_train
from graftlm.tasks._language_head import LanguageHead
from graftlm.tasks._source import in_order, locate
from graftlm.tasks._task import PACKAGE, Details, Problem, TaskData, parse, task
from graftlm.tasks._templates import fields
from graftlm.tasks._written import Guessed, Written, mean_loss

__all__ = [
    "NOWHERE",
    "PACKAGE",
    "Details",
    "Encoded",
    "Features",
    "Guessed",
    "LanguageHead",
    "Problem",
    "Reading",
    "SequenceHead",
    "TaskData",
    "TokenHead",
    "VectorHead",
    "Written",
    "collate",
    "encode",
    "fields",
    "guessed_head",
    "head_keys",
    "in_order",
    "load",
    "locate",
    "mean_loss",
    "must_train",
    "parse",
    "read_candidates",
    "read_places",
    "read_texts",
    "task",
]
