"""A working folder that holds a tiny model, tiny data and a run trained on them, and the command called in it."""

import shutil
import tempfile
from pathlib import Path

import pytest

from bad_input.cases import fit
from cli.conftest import data, graftlm, model
from graftlm.cli.main import code

__all__ = ["data", "graftlm", "model"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, model: str, data: str) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    shutil.copytree(model, folder / "model")
    shutil.copytree(data, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = "--epochs 10 --batch-size 8 --lr 0.02 --quiet"
        assert code(fit(flags, out="run").split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files are made in the folder too, so that one left behind is seen."""
    here = tmp_path / "here"
    shutil.copytree(world, here)
    (here / "tmp").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
