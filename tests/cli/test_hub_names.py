"""Hub names as models: the hub is looked at once, its cache is enough, and what is unknown is said in a line."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import AutoConfig

from graftlm.checkpoint import load_base, load_config, resolve
from graftlm.core.errors import UserError
from graftlm.core.hub import unreachable

ENDPOINT = huggingface_hub.constants.ENDPOINT


class Hub:
    """A session that gives one answer to every look, and remembers the looks."""

    def __init__(self, answer: Any, monkeypatch: pytest.MonkeyPatch):
        self.answer, self.looks = answer, []
        monkeypatch.setattr(huggingface_hub, "get_session", lambda: self)

    def head(self, address: str, timeout: float) -> Any:
        self.looks.append((address, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _config_asked_for(error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def from_pretrained(name: str, **options: Any) -> None:
        asked.append({"name": name, **options})
        raise error

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    return asked


def _refusal(name: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(resolve(name))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        (
            "minilmm",
            ConnectionError("no route"),
            f'no model "minilmm" on this machine, and the hub cannot be asked ({ENDPOINT} does not answer); '
            'did you mean "minilm"?',
        ),
        (
            "org/name",
            OfflineModeIsEnabled("offline"),
            'no model "org/name" on this machine, and the hub cannot be asked (HF_HUB_OFFLINE is set); '
            "minilm, smollm2 or a local folder would work",
        ),
    ],
)
def test_where_the_hub_does_not_answer_one_short_look_is_all_and_only_its_cache_is_asked(
    name: str, answer: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(answer, monkeypatch)
    asked = _config_asked_for(OSError("We couldn't connect"), monkeypatch)
    assert _refusal(name) == said
    assert [(address, timeout <= 3) for address, timeout in hub.looks] == [(ENDPOINT, True)]
    assert [(one["name"], one["local_files_only"]) for one in asked] == [(name, True)]


def test_what_a_hub_that_answers_says_of_a_name_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(SimpleNamespace(status_code=404), monkeypatch)
    asked = _config_asked_for(OSError("minilmm is not a valid model identifier\nsee …"), monkeypatch)
    assert unreachable() is None
    assert _refusal("minilmm") == (
        'no model "minilmm" (minilmm is not a valid model identifier); did you mean "minilm"?'
    )
    assert asked[0]["local_files_only"] is False


def test_an_alias_and_a_folder_never_look_at_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(AssertionError("asked"), monkeypatch)
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)).offline is None
    with pytest.raises(UserError, match="no model folder"):
        resolve("./none")
    assert hub.looks == []


def test_a_hub_name_in_the_cache_loads_while_the_hub_does_not_answer(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0" * 40
    repository = tmp_path / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(revision)
    shutil.copytree(model, repository / "snapshots" / revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    Hub(ConnectionError(), monkeypatch)
    base = load_base("org/tiny")
    assert base.source.path == "org/tiny"
    assert base.fingerprint == load_base(model).fingerprint
