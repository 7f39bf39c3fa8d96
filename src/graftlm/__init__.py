"""graftlm: adapt a frozen pretrained language model to a task with few parameters and few examples.

The names below are loaded when they are first used, so that `import graftlm` costs nothing. It asks torch for pages of
2 MiB for its larger tensors, since a block that is given back and asked for anew costs a fault a page; torch reads that
once, before its first tensor, and the user's own THP_MEM_ALLOC_ENABLE stands.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftlm.api import compare, evaluate, export_peft, fit, import_peft, load, merge, report, zero_shot
    from graftlm.core.errors import UserError
    from graftlm.core.settings import DataConfig, FitConfig, HeadConfig, TrainingConfig
    from graftlm.methods import attach
    from graftlm.sites import Sites

__version__ = "0.1.0"

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_PLACES = {
    "DataConfig": "graftlm.core.settings",
    "FitConfig": "graftlm.core.settings",
    "HeadConfig": "graftlm.core.settings",
    "Sites": "graftlm.sites",
    "TrainingConfig": "graftlm.core.settings",
    "UserError": "graftlm.core.errors",
    "attach": "graftlm.methods",
    "compare": "graftlm.api",
    "evaluate": "graftlm.api",
    "export_peft": "graftlm.api",
    "fit": "graftlm.api",
    "import_peft": "graftlm.api",
    "load": "graftlm.api",
    "merge": "graftlm.api",
    "report": "graftlm.api",
    "zero_shot": "graftlm.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module graftlm has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_PLACES, "__version__"])


__all__ = [
    "DataConfig",
    "FitConfig",
    "HeadConfig",
    "Sites",
    "TrainingConfig",
    "UserError",
    "attach",
    "compare",
    "evaluate",
    "export_peft",
    "fit",
    "import_peft",
    "load",
    "merge",
    "report",
    "zero_shot",
]
