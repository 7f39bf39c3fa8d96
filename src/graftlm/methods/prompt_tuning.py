"""Prompt Tuning (Lester et al., 2021, arXiv:2104.08691): L virtual tokens in front of the text, [P; X].

Virtual tokens take positions 0 to L − 1 (`position_shift`), or leave the text's positions as they are. An MLP that
makes P from E, or adds to it, is ours by option; it is dropped after training, and P (L d) is stored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig, needs
from graftlm.methods._peft_prompts import PROMPT_WORDS
from graftlm.methods._prompts import shift_of
from graftlm.methods._reparametrised import as_it_is, through_mlp
from graftlm.sites import Act, Param, Sites, Tensors, Tokens, kaiming_uniform, uniform

PAPER = "Lester et al. 2021"
KIND = "tokens"
MERGEABLE = False
LEARNING_RATE = 1e-2
TRAINS = "virtual tokens in front of the text"
PEFT = PROMPT_WORDS
STORES = "L · d numbers; an MLP is dropped"
HIDDEN = 512
FREQUENT = 5000  # the paper samples among the most frequent words, which come first in its vocabulary

Init = Literal["vocabulary", "uniform", "uniform-positive", "labels", "text", "file"]


class PromptTuningConfig(MethodConfig):
    """`init`: "vocabulary" samples rows of the 5,000 first words without replacement; "uniform" is U(−0.5, 0.5) as in
    the paper, "uniform-positive" U(0, 0.5) as in its code; "labels" starts one position from each label's mean
    word piece, "text" from the pieces of `text`, each filled up from the vocabulary; "file" reads a safetensors
    file with one tensor (L d).
    """

    length: PositiveInt = 100
    init: Init = "vocabulary"
    text: str = ""
    file: str = ""
    labels: tuple[str, ...] = ()
    position_shift: bool = True
    reparametrisation: Literal["none", "mlp", "residual"] = "none"
    hidden: PositiveInt = HIDDEN


def around_mlp(p: Tensors) -> Tensor:
    return p["embedding"] + through_mlp(p)


def kept(config: PromptTuningConfig) -> PromptTuningConfig:
    plain = {"reparametrisation": "none", "hidden": HIDDEN, "init": "uniform", "text": "", "file": "", "labels": ()}
    return config.model_copy(update=plain)


def with_labels(config: PromptTuningConfig, labels: Sequence[str]) -> PromptTuningConfig:
    wanted = config.init == "labels" and not config.labels
    return config.model_copy(update={"labels": tuple(labels)}) if wanted else config


def acts(config: PromptTuningConfig, sites: Sites) -> Sequence[Act]:
    for option in ("text", "file", "labels"):
        needs(config, option, "init", option)
    needs(config, "hidden", "reparametrisation", "mlp", "residual")
    shift = shift_of(config.position_shift, config.length, sites)
    d, k = int(sites.embedding().weight.shape[1]), config.hidden
    start = _start(config, sites, d)
    if config.reparametrisation == "none":
        params = {"values": start}
    else:
        params = {
            "embedding": start,
            "in_weight": kaiming_uniform(k, d),
            "in_bias": kaiming_uniform(k, fan_in=d),
            "out_weight": kaiming_uniform(d, k),
            "out_bias": kaiming_uniform(d, fan_in=k),
        }
    derive = {"none": as_it_is, "mlp": through_mlp, "residual": around_mlp}[config.reparametrisation]
    return [Tokens(params, derive, config.length, shift)]


def _start(config: PromptTuningConfig, sites: Sites, d: int) -> Param:
    length = config.length
    if config.init == "uniform":
        return uniform(length, d, low=-0.5, high=0.5)
    if config.init == "uniform-positive":
        return uniform(length, d, low=0.0, high=0.5)
    if config.init == "file":
        return Param((length, d), lambda _: _from_file(config, d))
    words = _words(config, sites) if config.init in ("labels", "text") else []
    if len(words) > length:
        raise UserError(f"init = {config.init} gives {len(words)} positions, but length is {length}")
    weight = sites.embedding().weight

    def init(generator: Generator) -> Tensor:
        rows = weight.detach().float().cpu()
        pool = min(FREQUENT, sites.vocabulary)
        missing = length - len(words)
        if missing <= pool:
            drawn = torch.randperm(pool, generator=generator)[:missing]
        else:
            drawn = torch.randint(pool, (missing,), generator=generator)
        return torch.stack([rows[pieces].mean(0) for pieces in words] + list(rows[drawn]))

    return Param((length, d), init)


def _words(config: PromptTuningConfig, sites: Sites) -> list[list[int]]:
    """The word pieces that each of the first positions starts from the mean of."""
    if sites.tokenizer is None:
        raise UserError(f"init = {config.init} needs a tokenizer")

    def pieces(text: str) -> list[int]:
        return sites.tokenizer(text, add_special_tokens=False)["input_ids"]

    if config.init == "text":
        found = [[piece] for piece in pieces(config.text)]
        if not found:
            raise UserError("init = text needs method.text, the words to start from")
        return found
    found = [pieces(label) for label in config.labels]
    if not found or not all(found):
        raise UserError("init = labels needs method.labels, the labels' names (a task gives its own)")
    return found


def _from_file(config: PromptTuningConfig, d: int) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(config.file)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f'method.file "{path}" is not a readable safetensors file: {error}') from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if list(shapes.values()) != [(config.length, d)]:
        raise UserError(f'method.file "{path}" holds {shapes}; one tensor of shape {(config.length, d)} is needed')
    return next(iter(tensors.values())).float()
