"""One file cut into splits: a run remembers the cut, so that a later evaluation never scores its training rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.core.errors import UserError
from graftlm.core.files import file_hash
from graftlm.core.settings import DataConfig
from graftlm.tasks import in_order


def remembered(config: DataConfig) -> dict[str, Any] | None:
    """The fractions that a run's file was cut by, and the file's hash; None where nothing was cut."""
    if not config.split:
        return None
    return {"split": dict(config.split), "file": file_hash(Path(config.path).expanduser())}


def recut(config: DataConfig, cut: Mapping[str, Any] | None) -> DataConfig:
    """`config` with the run's own cut, where it names the file that the run was trained on; another cut is refused."""
    path = Path(config.path).expanduser()
    if not cut or not path.is_file() or file_hash(path) != cut["file"]:
        return config
    own, asked = _said(cut["split"]), _said(config.split)
    if asked and asked != own:
        raise UserError(
            f"{config.path} is the file that the run was trained on, cut into {own}; cut into {asked} its splits would "
            "hold rows of the training; leave the cut out"
        )
    return config.model_copy(update={"split": dict(cut["split"])})


def _said(fractions: Mapping[str, float]) -> str:
    return ",".join(f"{split}={fraction:g}" for split, fraction in in_order(fractions).items())
