"""Writes `docs/methods/NAME.md` and the index `docs/README.md` from the methods' own files: `make docs`.

A new method file gets its page without a change here. `tests/test_docs.py` fails where a page is not what this makes.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diagram import draw, places
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from graftlm.cli.methods import example, example_options
from graftlm.core.errors import UserError
from graftlm.core.files import write_text
from graftlm.core.options import options
from graftlm.core.registry import facts
from graftlm.methods import MethodConfig, acts, count, parse
from graftlm.sites import Sites

DOCS = Path(__file__).parent
PACKAGE = "graftlm.methods"
LLAMA_1B = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8} | {
    "intermediate_size": 8192,
    "vocab_size": 128256,
}
SIZES: dict[str, Callable[[], nn.Module]] = {
    "bert-base-uncased": lambda: BertModel(BertConfig()),
    "gpt2-medium": lambda: GPT2Model(GPT2Config(n_embd=1024, n_layer=24, n_head=16)),
    "Llama, 1B": lambda: LlamaModel(LlamaConfig(**LLAMA_1B)),
}
TINY = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 99}
DRAWN: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "minilm": ("BERT", lambda: BertModel(BertConfig(**TINY))),
    "smollm2": ("Llama", lambda: LlamaModel(LlamaConfig(**TINY))),
}


@cache
def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """A model of shapes only."""
    with torch.device("meta"):
        return make()


def pages() -> dict[Path, str]:
    """Every generated file and what it holds."""
    table = facts(PACKAGE)
    made = {DOCS / "methods" / f"{name}.md": _page(name, row) for name, row in table.items()}
    return made | {DOCS / "README.md": _index(table)}


def stale(made: dict[Path, str]) -> list[Path]:
    """Pages of methods that are no more."""
    return [path for path in sorted((DOCS / "methods").glob("*.md")) if path not in made]


def _page(name: str, row: dict[str, Any]) -> str:
    chosen = parse(name, dict(row.get("EXAMPLE", {})))
    found = options(type(chosen))
    acting, model = _where(chosen)
    paper = f"{row['PAPER']}. " if row.get("PAPER") else ""
    about = inspect.cleandoc(type(chosen).__doc__ or "")
    cells = [[f"`{each.name}`", each.type, f"`{each.default}`"] for each in found]
    parts = [
        f"# {title(str(row['doc']))}",
        f"{paper}`--method {name}`; made from the method's own file by `make docs`.",
        _linked(str(row["doc"])),
        "## Options",
        *([_table(["option", "type", "default"], cells)] if cells else []),
        about,
        "## Facts",
        _table(["", ""], _facts(row)),
        f"{_configured(row)} Numbers without the task's head, which every run trains and stores as well:",
        _table(["base", "its numbers", "trained", "share", "stored"], [_counted(base, chosen) for base in SIZES]),
        "## Use it",
        f"```\n{example(name, found, row, model)}\n```",
        f"```python\n{_python(name, example_options(found, row), model)}\n```",
        "## Where it acts",
        acting,
    ]
    return "\n\n".join(parts) + "\n"


def title(doc: str) -> str:
    """What a docstring calls its method: all before the first bracket, colon or full stop."""
    return re.split(r"\s*[(:.]", doc, maxsplit=1)[0]


def _linked(text: str) -> str:
    """Papers as links; signs that Markdown would take for its own are kept from it."""
    parts = re.split(r"(`[^`]*`)", text)
    safe = [part if part.startswith("`") else re.sub(r"([*<|])", r"\\\1", part) for part in parts]
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", "".join(safe))


def _facts(row: dict[str, Any]) -> list[list[str]]:
    rate = f"`{row['LEARNING_RATE']:g}`" if "LEARNING_RATE" in row else "the run's"
    merge = "yes: `graftlm merge` makes a plain Transformers model" if row.get("MERGEABLE") else "no"
    said = [["acts by", row.get("KIND", "")], ["trains", row.get("TRAINS", "")], ["stores", row.get("STORES", "")]]
    return [*said, ["mergeable", merge], ["default learning rate", rate]]


def _configured(row: dict[str, Any]) -> str:
    chosen = ", ".join(f"`{name}={value}`" for name, value in dict(row.get("EXAMPLE", {})).items())
    return f"With {chosen}." if chosen else "With the default options."


def _counted(base: str, config: MethodConfig) -> list[str]:
    model = on_meta(SIZES[base])
    size = sum(parameter.numel() for parameter in model.parameters())
    try:
        found = count(model, config)
    except UserError as error:
        return [base, f"{size:,}", f"refused: {error}", "", ""]
    return [base, f"{size:,}", f"{found['delta']:,}", f"{100 * found['delta'] / size:.3f} %", f"{found['kept']:,}"]


def _where(config: MethodConfig) -> tuple[str, str]:
    """The diagram on the first family that the method takes, with that in words, and a model of the family."""
    refusal = ""
    for model, (family, make) in DRAWN.items():
        sites = Sites(on_meta(make))
        try:
            found = acts(config, sites)
        except UserError as error:
            refusal = refusal or f"{family} is refused: {error}. "
            continue
        by_kind: dict[str, list[str]] = {}
        for place in places(found, sites):
            by_kind.setdefault(place.kind, []).append(place.node)
        at = "; ".join(f"{kind} at {', '.join(nodes)}" for kind, nodes in by_kind.items()) or "nowhere in the base"
        return f"{refusal}In {family}: {at}.\n\n```mermaid\n{draw(found, sites)}\n```", model
    return refusal.strip(), next(iter(DRAWN))


def _python(name: str, chosen: dict[str, Any], model: str) -> str:
    lines = [
        "import graftlm",
        "",
        "run = graftlm.fit(",
        f'    model="{model}",',
        '    data="examples/data/tweets",',
        f"    method={_literal({'name': name, **chosen})},",
        f'    out="runs/{name}",',
        ")",
        'print(run.metrics["accuracy"])',
    ]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    """A value in Python, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _index(table: dict[str, dict[str, Any]]) -> str:
    rows: list[list[str]] = []
    for name, row in table.items():
        acts_by, trains, stores, paper = (str(row.get(key, "")) for key in ("KIND", "TRAINS", "STORES", "PAPER"))
        merge = "yes" if row.get("MERGEABLE") else "no"
        rows.append([f"[`{name}`](methods/{name}.md)", title(str(row["doc"])), acts_by, trains, stores, merge, paper])
    parts = [
        "# The methods",
        "A page each, made from the method's own file by `make docs`; `graftlm methods NAME` shows the same in a "
        "terminal. Every run trains and stores its task's head as well.",
        _table(["name", "method", "acts by", "trains", "stores", "mergeable", "paper"], rows),
    ]
    if (DOCS / "results.md").exists():
        parts.append("[Results](results.md): what was measured, with the commands.")
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    made = pages()
    (DOCS / "methods").mkdir(exist_ok=True)
    for path, text in made.items():
        write_text(path, text)
    for path in stale(made):
        path.unlink()
    print(f"{len(made)} pages in {DOCS}")


if __name__ == "__main__":
    main()
