"""How a model takes a prompt: the special tokens around segments, the token that stands for a mask, where it is read.

A masked model is asked at its mask. A causal one is asked behind its last token, where the mask would follow. T5's
family reads a sentinel and is asked behind the same sentinel in its decoder, as it was pre-trained (Raffel et al.,
2020); BART's family reads its mask, and its decoder is given the text up to the mask, which it repeats (Lewis et al.,
2020), tuned words as the words that they start from.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from graftlm.core.errors import UserError
from graftlm.prompts._template import TARGET, Field, Mask, Piece, Special, Template, Words, joined
from graftlm.sites import Sites

Kind = Literal["masked", "causal", "sentinel", "denoising"]
SENTINEL = "<extra_id_0>"


@dataclass(frozen=True)
class Frame:
    """`before`, `between` and `after` are special tokens around one segment or two; `second` is the segment id of what
    follows the first, None where the model has none. `mask` is the text and the id that stand for a mask, None where
    the mask is the place behind the text. `spaced`: a text that begins anew begins with a space of its own. Where a
    tokenizer has nothing between two segments, a new line is.
    """

    tokenizer: Any
    kind: Kind
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    second: int | None
    mask: tuple[str, int] | None
    end: int
    spaced: bool


def frame_of(tokenizer: Any, sites: Sites, *, bare: bool = False, asked: bool = True) -> Frame:
    """A model's way. `bare`: the text has its special tokens in it, as a chat template writes them. `asked`: for one
    word at a mask, and not for a text."""
    kind, mask = _asked(tokenizer, sites) if asked else ("sentinel" if _two_stacks(sites) else "causal", None)
    one, two = tokenizer("a"), tokenizer("a", "a")
    typed = "token_type_ids" in tokenizer.model_input_names and kind == "masked"
    owners, ids = two.sequence_ids(0), two["input_ids"]
    if 0 not in owners or 1 not in owners:
        raise UserError(f'{type(tokenizer).__name__} has no token for "a", so it is no tokenizer of texts')
    first, last = owners.index(0), len(owners) - 1 - owners[::-1].index(1)
    inside = [place for place in range(first, last) if owners[place] is None]
    ends = one.sequence_ids(0)
    last_one = len(ends) - 1 - ends[::-1].index(0)
    closed = kind != "causal" and not bare
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    return Frame(
        tokenizer,
        kind,
        () if bare else tuple(one["input_ids"][: ends.index(0)]),
        tuple(ids[place] for place in inside) or tuple(tokenizer("\n", add_special_tokens=False)["input_ids"]),
        tuple(one["input_ids"][last_one + 1 :]) if closed else (),
        two["token_type_ids"][last] if typed else None,
        mask,
        int(end),
        _spaced(tokenizer),
    )


def _asked(tokenizer: Any, sites: Sites) -> tuple[Kind, tuple[str, int] | None]:
    if _two_stacks(sites):
        if SENTINEL in tokenizer.get_vocab():
            return "sentinel", (SENTINEL, int(tokenizer.convert_tokens_to_ids(SENTINEL)))
        if tokenizer.mask_token_id is not None:
            return "denoising", (tokenizer.mask_token, int(tokenizer.mask_token_id))
        raise UserError(
            f'{type(tokenizer).__name__} has neither a mask token nor the sentinel "{SENTINEL}", so "{sites.family}" '
            "cannot be asked for a word; a model that was pre-trained to fill gaps, as t5 or bart, would work"
        )
    if _has_mlm_head(sites):
        if tokenizer.mask_token_id is None:
            raise UserError(f"{type(tokenizer).__name__} has no mask token, so the model guesses no masked words")
        return "masked", (tokenizer.mask_token, int(tokenizer.mask_token_id))
    return "causal", None


def _two_stacks(sites: Sites) -> bool:
    return sites.encoder_decoder or bool(getattr(sites.config, "is_encoder_decoder", False))


def _has_mlm_head(sites: Sites) -> bool:
    return type(sites.model).__name__.endswith("MaskedLM")


def _spaced(tokenizer: Any) -> bool:
    """Whether a text's first word is the same tokens as after a space."""
    ids = tokenizer(["a", "a a"], add_special_tokens=False)["input_ids"]
    return bool(ids[0]) and ids[1] == ids[0] * 2


def with_specials(template: Template, tokenizer: Any) -> Template:
    """The template with its special tokens as the tokenizer spells them, without a space before them; one that it does
    not have is an error."""
    purposes = {f"<{name.removesuffix('_token')}>": token for name, token in tokenizer.special_tokens_map.items()}
    spellings = set(tokenizer.all_special_tokens)

    def spelled(name: str) -> Words:
        found = purposes.get(name, name)
        if found not in spellings:
            raise UserError(
                f'{type(tokenizer).__name__} has no special token "{name}"; it has {", ".join(sorted(purposes))}'
            )
        return Words(found)

    found: list[Piece] = []
    for piece in template.pieces:
        if isinstance(piece, Special):
            if found and isinstance(before := found[-1], Words):
                found[-1] = replace(before, text=before.text.rstrip(" "))
            piece = spelled(piece.name)
        found.append(piece)
    return joined(found)


def check_target(template: Template) -> Template:
    """What stands before {target}; refuses a template that does not end with it, or has a mask."""
    *before, last = template.pieces or (None,)
    if template.masks or last != Field(TARGET) or None in before:
        lacks = "" if template.masks else "has no {mask}, where the model says a word, and "
        raise UserError(
            f'template "{template}" {lacks}does not end with {{target}}, where the model writes, as in '
            '"{text} Summary: {target}"'
        )
    opening = joined([piece for piece in before if piece is not None])
    if TARGET in opening.fields:
        raise UserError(f'template "{template}" has {{target}} twice; it stands at the end')
    return opening


def check_mask(template: Template, frame: Frame, written: str) -> None:
    """Refuses a template without one mask, or whose mask a causal model cannot be asked at. `written`: as a user wrote
    it, which another library's or one with turns is not any more."""
    if template.masks != 1:
        found = "no {mask}" if not template.masks else f"{template.masks} masks"
        raise UserError(f'template "{written}" has {found}; it needs one, as in "{{text}} It was {{mask}}."')
    place = next(place for place, piece in enumerate(template.pieces) if isinstance(piece, Mask))
    behind = [
        piece for piece in template.pieces[place + 1 :] if not (isinstance(piece, Words) and piece.text.isspace())
    ]
    if frame.kind == "causal" and behind:
        start = len("".join(map(str, template.pieces[: place + 1])))
        where = f", character {start + 1}" if str(template) == written else ""
        raise UserError(
            f'template{where}: "{behind[0]}" stands behind {{mask}}, and a causal model has not seen '
            "it there; {mask} at the end would work"
        )
