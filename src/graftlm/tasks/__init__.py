"""Task families: a file each; data, features and heads that they share."""

from types import ModuleType

from graftlm.core import registry
from graftlm.tasks._data import TaskData, load, read_texts
from graftlm.tasks._features import Features, collate, encode
from graftlm.tasks._head import SequenceHead, head_keys

PACKAGE = "graftlm.tasks"


def task(name: str) -> ModuleType:
    """The module of a task by its name; an unknown name is an error that names the nearest."""
    return registry.load(PACKAGE, "task", name)


__all__ = ["Features", "SequenceHead", "TaskData", "collate", "encode", "head_keys", "load", "read_texts", "task"]
