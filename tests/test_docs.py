"""The methods' pages are what their files say, and their diagrams show what their acts do."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.core.registry import modules
from graftlm.methods import MethodConfig, acts
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.head import HeadConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.top_k import TopKConfig
from graftlm.sites import Sites
from tiny import model

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generate")


def _drawn(generate: Any, config: MethodConfig, family: str = "bert") -> list[str]:
    with torch.device("meta"):
        sites = Sites(model(family))
    return [line.strip() for line in generate.draw(acts(config, sites), sites).splitlines()]


def test_every_page_is_what_the_methods_files_say(generate: Any) -> None:
    made = generate.pages()
    wrong = [path.name for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    wrong += [path.name for path in generate.stale(made)]
    assert wrong == [], "run `make docs`"


def test_there_is_a_page_and_a_line_of_the_index_for_each_method(generate: Any) -> None:
    made = generate.pages()
    index = made[DOCS / "README.md"]
    for name in modules("graftlm.methods"):
        assert f"[`{name}`](methods/{name}.md)" in index
        assert f"--method {name}" in made[DOCS / "methods" / f"{name}.md"]


def test_a_page_holds_published_counts_and_reasons_of_refusals(generate: Any) -> None:
    made = {path.stem: text for path, text in generate.pages().items()}
    assert "| bert-base-uncased | 109,482,240 | 102,912 | 0.094 % | 102,912 |" in made["bitfit"]
    assert "| gpt2-medium | 354,823,168 | 25,750,016 | 7.257 % | 491,520 |" in made["prefix"]
    assert "| Llama, 1B | 1,235,814,400 | refused: bitfit trains biases" in made["bitfit"]


def test_a_branch_colours_its_sites_and_no_others(generate: Any) -> None:
    lines = _drawn(generate, LoraConfig())
    assert [line for line in lines if line.startswith("class ")] == [
        "class attention_query branch",
        "class attention_value branch",
    ]
    assert 'attention_query["attention.query<br/>branch: down, up"]' in lines
    assert 'attention_key["attention.key"]' in lines


def test_a_span_is_coloured_whole(generate: Any) -> None:
    lines = _drawn(generate, AdapterConfig())
    assert 'subgraph span_feedforward ["feedforward<br/>branch: down, down_bias, up, up_bias"]' in lines
    assert "class span_feedforward branch" in lines


def test_what_comes_from_outside_has_a_node_of_its_own(generate: Any) -> None:
    assert "past_act ==> attention" in _drawn(generate, PrefixConfig())
    assert "tokens_act ==> embedding" in _drawn(generate, PromptTuningConfig())


def test_blocks_that_are_acted_on_are_numbered_where_they_are_not_all(generate: Any) -> None:
    assert 'subgraph block ["2 blocks; acted on in block 2"]' in _drawn(generate, TopKConfig(k=1))
    assert 'subgraph block ["each of the 2 blocks"]' in _drawn(generate, TopKConfig(k=2))


def test_a_method_that_leaves_the_base_as_it_is_colours_nothing(generate: Any) -> None:
    assert not [line for line in _drawn(generate, HeadConfig()) if line.startswith("class")]


def test_a_pre_norm_model_has_its_norms_before_and_its_gate_beside(generate: Any) -> None:
    lines = _drawn(generate, LoraConfig(), "llama")
    assert "embedding --> norm_attention" in lines
    assert "norm_feedforward --> feedforward_gate & feedforward_input" in lines
    assert "norm_final --> head" in lines


def test_signs_of_markdown_in_a_docstring_are_kept_from_it(generate: Any) -> None:
    assert generate._linked("a * b `c * d` <e> arXiv:1234.56789") == (
        r"a \* b `c * d` \<e> [arXiv:1234.56789](https://arxiv.org/abs/1234.56789)"
    )
    assert [generate.title(doc) for doc in ("LoRA (Hu): y", "Head only: x", "Top-k. y")] == [
        "LoRA",
        "Head only",
        "Top-k",
    ]
