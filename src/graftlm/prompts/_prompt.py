"""A template and a verbalizer of one run, bound to a model and its tokenizer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftlm.core.errors import UserError, check_whole
from graftlm.core.example import Example
from graftlm.core.settings import PromptConfig
from graftlm.prompts._chat import chat_template_of, spoken
from graftlm.prompts._filling import Filled, Filler
from graftlm.prompts._frame import Frame, check_mask, check_target, frame_of, with_specials
from graftlm.prompts._lexicon import Lexicon
from graftlm.prompts._parsing import parse
from graftlm.prompts._soft import soft_pieces
from graftlm.prompts._template import PAIR, TEXT, Template
from graftlm.prompts._verbalizer import Verbalizer, make
from graftlm.sites import Sites, Tokens


@dataclass(frozen=True)
class Prompt:
    """`act` looks up the template's virtual tokens, None where it has none; `config` is what is stored.

    `ends`: for scores, the numbers that the verbalizer's words stand for, in order. `tuned`: the token that each
    virtual one of tuned words starts as.
    """

    template: Template
    frame: Frame
    filler: Filler
    verbalizer: Verbalizer
    act: Tokens | None
    config: PromptConfig
    ends: tuple[float, ...] = ()
    tuned: Mapping[int, int] = field(default_factory=dict)

    def fill(self, examples: Sequence[Example], room: int) -> list[Filled]:
        """Each example in the template, of at most `room` tokens."""
        return self.filler.fill([self._values(example) for example in examples], room)

    def blank(self, text: str, room: int) -> Filled:
        """The template with one text in all of its fields, as it stands: filters are for what an example says."""
        return self.filler.fill([dict.fromkeys(self.template.fields, text)], room, filtered=False)[0]

    def _values(self, example: Example) -> dict[str, str]:
        return {name: value_of(example, name, self.config.aliases) for name in self.template.fields}


def bound(
    config: PromptConfig,
    labels: Sequence[str],
    tokenizer: Any,
    sites: Sites,
    first: int,
    *,
    scored: bool = False,
    reads: Verbalizer | None = None,
) -> Prompt:
    """A run's prompt. `first`: how many virtual tokens the run's method has in front of the text.

    `scored`: the verbalizer's words stand for numbers, between which a score is interpolated. `reads` stands in place
    of the verbalizer that the config names.
    """
    if not config.verbalizer:
        raise UserError('option prompt.verbalizer is missing; it has the words of each label, as {"positive": "great"}')
    template, frame, chat_template = framed(config, tokenizer, sites)
    check_mask(template, frame, config.template)
    _check_options(config, frame, scored)
    lexicon = Lexicon(template, frame, sites)
    ends = numbers(config.verbalizer) if scored else ()
    names = [*words_of(config.verbalizer)] if scored else labels
    verbalizer = make(config.verbalizer, names, lexicon) if reads is None else reads
    soft = soft_pieces(lexicon, config.soft, first)
    stored = config.model_copy(
        update={
            "verbalizer": dict(verbalizer.config),
            "soft": dict(soft.stored),
            "chat_template": chat_template,
        }
    )
    filler = Filler(template, frame, soft.slots, verbalizer.masks)
    return Prompt(template, frame, filler, verbalizer, soft.act, stored, ends, soft.words)


def _check_options(config: PromptConfig, frame: Frame, scored: bool) -> None:
    if scored and config.calibration is not None:
        raise UserError(f"prompt.calibration = {config.calibration} is for labels, and this task gives scores")
    if config.mlm_weight and frame.kind != "masked":
        raise UserError("prompt.mlm_weight needs a masked model, as bert or roberta, and this one is none")


@dataclass(frozen=True)
class Opening:
    """What stands before {target}, where the model writes; `act` and `config` as a prompt's."""

    filler: Filler
    act: Tokens | None
    config: PromptConfig


@dataclass(frozen=True)
class Gap(Opening):
    """What stands around a missing word, which any word of the vocabulary may be."""

    lexicon: Lexicon

    def word(self, word: str) -> list[int]:
        """A word's tokens at the mask; one that the vocabulary does not have is an error."""
        return self.lexicon.tokens(word)


def opened(config: PromptConfig, tokenizer: Any, sites: Sites, first: int) -> Opening:
    """A run's prompt where the task writes texts. `first`: how many virtual tokens its method has in front."""
    _without_labels(config, "this task writes texts")
    whole, frame, chat_template = framed(config, tokenizer, sites, asked=False)
    template = check_target(whole)
    soft = soft_pieces(Lexicon(template, frame, sites), config.soft, first)
    stored = config.model_copy(update={"soft": dict(soft.stored), "chat_template": chat_template})
    return Opening(Filler(template, frame, soft.slots), soft.act, stored)


def gapped(config: PromptConfig, tokenizer: Any, sites: Sites, first: int) -> Gap:
    """A run's prompt where the task asks for a word of the whole vocabulary. `first` as in `opened`."""
    _without_labels(config, "this task asks for any word")
    if sites.encoder_decoder:
        raise UserError(
            f'"{sites.family}" would be asked for the word in its decoder, which this task does not do; a masked or a '
            "causal model would work"
        )
    template, frame, chat_template = framed(config, tokenizer, sites)
    check_mask(template, frame, config.template)
    lexicon = Lexicon(template, frame, sites)
    soft = soft_pieces(lexicon, config.soft, first)
    stored = config.model_copy(update={"soft": dict(soft.stored), "chat_template": chat_template})
    return Gap(Filler(template, frame, soft.slots), soft.act, stored, lexicon)


def _without_labels(config: PromptConfig, does: str) -> None:
    """Refuses what is for labels alone."""
    given = {"verbalizer": config.verbalizer, "calibration": config.calibration, "mlm_weight": config.mlm_weight}
    for name, value in given.items():
        if value:
            raise UserError(f"prompt.{name} is for labels, and {does}; leave it out")


def framed(
    config: PromptConfig, tokenizer: Any, sites: Sites, *, asked: bool = True
) -> tuple[Template, Frame, str | None]:
    """The template with its turns written out, how the model takes it, and the chat template, if it has turns."""
    template = with_specials(parse(config.template), tokenizer)
    if not template.turns:
        return template, frame_of(tokenizer, sites, asked=asked), None
    chat_template = chat_template_of(tokenizer, config.chat_template)
    spoken_frame = frame_of(tokenizer, sites, bare=True, asked=asked)
    return spoken(template, tokenizer, chat_template), spoken_frame, chat_template


def filler_of(config: PromptConfig, tokenizer: Any, sites: Sites) -> Filler:
    """What fills a template, of a model whose weights need not be there; its virtual tokens are numbered from 0."""
    if not parse(config.template).masks:
        return opened(config.model_copy(update={"verbalizer": {}}), tokenizer, sites, 0).filler
    template, frame, _ = framed(config, tokenizer, sites)
    check_mask(template, frame, config.template)
    soft = soft_pieces(Lexicon(template, frame, sites), config.soft, 0)
    return Filler(template, frame, soft.slots)


def words_of(verbalizer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands for each label, in the short form and in the long one."""
    words = verbalizer.get("words") if isinstance(verbalizer.get("name"), str) else None
    return words if isinstance(words, Mapping) else verbalizer


def numbers(verbalizer: Mapping[str, Any]) -> tuple[float, ...]:
    """The scores that words stand for; a name that is no number is an error."""
    found: list[float] = []
    for name in words_of(verbalizer):
        try:
            found.append(float(name))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise UserError(
                f'the verbalizer of a score names numbers, as {{"0": "terrible", "5": "great"}}; "{name}" is none'
            )
    if len(set(found)) < 2:
        raise UserError("the verbalizer of a score needs two numbers at least, the lowest and the highest score")
    return tuple(found)


def value_of(example: Example, name: str, aliases: Mapping[str, str]) -> str:
    """What stands in a field for an example; `aliases` are other names of its texts. Half a surrogate pair, which no
    tokenizer reads, is an error."""
    value = _value(example, name, aliases)
    check_whole(value, f"{example.at or 'an input'}: {name}")
    return value


def _value(example: Example, name: str, aliases: Mapping[str, str]) -> str:
    ours = aliases.get(name, name)
    row: Mapping[str, Any] = example.meta.get("row", {})
    if ours == TEXT:
        return example.text
    if ours == PAIR and example.text_pair is not None:
        return example.text_pair
    value = row.get(ours)
    if value is None:
        there = [
            TEXT,
            *([PAIR] if example.text_pair is not None else []),
            *(key for key in row if row[key] is not None),
        ]
        raise UserError(
            f'{example.at or "an input"} has no "{name}", which the template has a field for; it has {", ".join(there)}'
        )
    return value if isinstance(value, str) else str(value)
