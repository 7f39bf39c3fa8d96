"""One file cut into splits: a run remembers the cut, so that a later evaluation never scores its training rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.core.files import file_hash
from graftlm.core.settings import DataConfig


def remembered(config: DataConfig) -> dict[str, Any] | None:
    """The fractions that a run's file was cut by, and the file's hash; None where nothing was cut."""
    if not config.split:
        return None
    return {"split": dict(config.split), "file": file_hash(Path(config.path).expanduser())}


def recut(config: DataConfig, cut: Mapping[str, Any] | None) -> DataConfig:
    """`config` with the run's own cut, where it names the file that the run was trained on and no cut of its own."""
    path = Path(config.path).expanduser()
    if not cut or config.split or not path.is_file() or file_hash(path) != cut["file"]:
        return config
    return config.model_copy(update={"split": dict(cut["split"])})
