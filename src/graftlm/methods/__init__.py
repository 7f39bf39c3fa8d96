"""Methods: a file each. `attach` puts runs of any of them on one frozen base."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from graftlm.methods._method import PACKAGE, MethodConfig, acts, config_class, kept, learning_rate, parse, with_labels
from graftlm.methods._peft import WHOLE, NoWordsError, PeftForm, Theirs, from_peft, peft_form
from graftlm.methods._peft_body import check_body
from graftlm.sites import Act, Attached, Sites


def attach(
    base: nn.Module,
    methods: Mapping[str, MethodConfig],
    *,
    seeds: Mapping[str, int] | None = None,
    tokenizer: Any = None,
    missing: Collection[str] = (),
    beside: Mapping[str, Sequence[Act]] | None = None,
) -> Attached:
    """Puts runs on a frozen base: `attach(model, {"a": LoraConfig(rank=4), "b": BitfitConfig()})`.

    A run's name may be anything. `seeds` (0 by default) fix each run's initial values; `tokenizer` is needed only
    by initial values that name words; `missing` names parameters that the checkpoint lacks; `beside` are acts of runs
    that are no method's, such as a template's virtual tokens. `attached.detach()` gives the base back, bit for bit.
    """
    sites = Sites(base, tokenizer, missing)
    given = seeds or {}
    return Attached(
        sites,
        {run: [*acts(config, sites), *(beside or {}).get(run, ())] for run, config in methods.items()},
        {run: given.get(run, 0) for run in methods},
    )


def count(base: nn.Module, config: MethodConfig) -> dict[str, int]:
    """Numbers of a method on a model, which may lie on the meta device: those trained, and those kept afterwards."""
    from graftlm.sites import Select

    sites = Sites(base)

    def total(of: MethodConfig) -> int:
        sizes: Sequence[int] = [
            base.get_parameter(act.parameter).numel()
            if isinstance(act, Select)
            else sum(param.count for param in act.params.values() if param.trained)
            for act in acts(of, sites)
        ]
        return sum(sizes)

    return {"delta": total(config), "kept": total(kept(config))}


__all__ = [
    "PACKAGE",
    "WHOLE",
    "MethodConfig",
    "NoWordsError",
    "PeftForm",
    "Theirs",
    "acts",
    "attach",
    "check_body",
    "config_class",
    "count",
    "from_peft",
    "kept",
    "learning_rate",
    "parse",
    "peft_form",
    "with_labels",
]
