"""Task families: a file each; data, features and heads that they share."""

from graftlm.tasks._data import TaskData, load, read_texts
from graftlm.tasks._features import Features, collate, encode
from graftlm.tasks._head import SequenceHead, head_keys
from graftlm.tasks._task import PACKAGE, Details, task

__all__ = [
    "PACKAGE",
    "Details",
    "Features",
    "SequenceHead",
    "TaskData",
    "collate",
    "encode",
    "head_keys",
    "load",
    "read_texts",
    "task",
]
