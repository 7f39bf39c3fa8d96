"""The learning rates that `methods.py` tries for each method, and where they come from: at most four each.

A paper's rates are for models 5 to 30 times as large as MiniLM and for more steps; where it names one or two only,
larger ones of ours stand beside them, and a result says which kind was chosen.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 4


@dataclass(frozen=True)
class Entry:
    """One row of the benchmark: a method with its options, the paper's rates, ours, and the source."""

    method: str
    paper: tuple[float, ...]
    ours: tuple[float, ...]
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(sorted({*self.paper, *self.ours}))


ENTRIES: dict[str, Entry] = {
    "head": Entry("head", (), (3e-3, 1e-2, 3e-2, 0.1), "a baseline without a paper"),
    "full": Entry("full", (5e-5,), (1e-4, 3e-4), "Devlin et al. 2018, appendix A.3: 2e-5, 3e-5, 5e-5"),
    "top-k": Entry("top-k", (5e-5,), (3e-4, 1e-3), "as full", {"k": 1}),
    "bitfit": Entry("bitfit", (1e-3,), (3e-3, 1e-2, 3e-2), "the authors' code (github.com/benzakenelad/BitFit)"),
    "lora": Entry("lora", (5e-4,), (1e-3, 3e-3, 1e-2), "Hu et al. 2021: GPT-2 2e-4, RoBERTa-base 4e-4 and 5e-4"),
    "adapter-houlsby": Entry(
        "adapter", (3e-4, 3e-3), (1e-3,), "Houlsby et al. 2019: 3e-5, 3e-4, 3e-3", {"variant": "houlsby"}
    ),
    "adapter-pfeiffer": Entry("adapter", (), (3e-4, 1e-3, 3e-3, 1e-2), "about Houlsby's grid", {"variant": "pfeiffer"}),
    "adapter-parallel": Entry(
        "adapter", (1e-4,), (1e-3, 3e-3, 1e-2), "He et al. 2021, on GLUE", {"variant": "parallel"}
    ),
    "prefix": Entry("prefix", (), (3e-4, 1e-3, 3e-3), "Li & Liang 2021: 8e-5 on E2E; no classification there"),
    "prompt-tuning": Entry(
        "prompt-tuning",
        (0.3,),
        (1e-2, 3e-2),
        "Lester et al. 2021: 0.3 with Adafactor, AdamW here; 20 tokens, of their 1 to 150, for short texts",
        {"length": 20},
    ),
    "ptuning-v2": Entry(
        "ptuning-v2", (5e-3, 1e-2, 3e-2), (), "the authors' search and scripts (github.com/THUDM/P-tuning-v2)"
    ),
    "ptuning": Entry(
        "ptuning", (1e-4,), (3e-3, 1e-2, 3e-2), "the authors' code (github.com/THUDM/P-tuning): LAMA, few-shot"
    ),
    "ia3": Entry("ia3", (3e-3,), (1e-2, 3e-2), "the authors' code (github.com/r-three/t-few), with Adafactor"),
    "unipelt": Entry("unipelt", (5e-4,), (1e-3, 3e-3), "Mao et al. 2021, appendix B as others quote it; not checked"),
    "mam": Entry(
        "mam",
        (1e-4,),
        (3e-4, 1e-3),
        "He et al. 2021: XSum 5e-5, GLUE 1e-4; its prefix's MLP does not bear 3e-3",
    ),
}


def entries(known: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The table, with a row for each method of `known` (name -> facts) that it lacks: about the method's default."""
    named: Collection[str] = {entry.method for entry in ENTRIES.values()}
    found = dict(ENTRIES)
    for name, facts in known.items():
        if name not in named:
            rate = float(facts.get("LEARNING_RATE", 1e-3))
            rates = tuple(float(f"{rate * factor:.2g}") for factor in (0.3, 1, 3))
            found[name] = Entry(name, (), rates, "about the method's own default", dict(facts.get("EXAMPLE", {})))
    return found
