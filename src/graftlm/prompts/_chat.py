"""Turns of a conversation as an instruct model's chat template writes them, with a template's pieces inside."""

from collections.abc import Mapping
from typing import Any

from graftlm.core.errors import UserError
from graftlm.prompts._template import Break, Piece, Template, Turn, Words, joined

MARK = "\ue000{}\ue001"  # private signs, which no chat template writes and no data needs


def chat_template_of(tokenizer: Any, stored: str | None) -> str:
    """The tokenizer's chat template, or the one that was stored with a run."""
    found = stored or getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str):
        raise UserError(
            f"the template has turns, but {type(tokenizer).__name__} has no chat template; prompt.chat_template gives "
            "one, or the template says the turns in words"
        )
    return found


def spoken(template: Template, tokenizer: Any, chat_template: str) -> Template:
    """The template with its turns in the chat template's words; the last one is begun and left open."""
    turns: list[tuple[str, list[Piece]]] = []
    for piece in template.pieces:
        if isinstance(piece, Turn):
            turns.append((piece.role, []))
        elif turns and not isinstance(piece, Break):
            turns[-1][1].append(piece)
        elif not (isinstance(piece, Words) and piece.text.isspace()):
            raise UserError(
                f'template: "{piece}" stands before the first turn, or breaks one; begin with {{turn:user}}'
            )
    last = [] if turns[-1][0] != "assistant" else _stripped(turns.pop()[1])
    said = [{"role": role, "content": MARK.format(place)} for place, (role, _) in enumerate(turns)]
    try:
        text = str(
            tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, chat_template=chat_template)
        )
    except Exception as error:  # templates are programs, and raise what they like
        raise UserError(f"the chat template cannot take these turns: {error}") from None
    found: list[Piece] = []
    for place, (role, own) in enumerate(turns):
        before, mark, text = text.partition(MARK.format(place))
        if not mark:
            raise UserError(f"the chat template leaves out the {role}'s turn; one without it would work")
        found += [Words(before), *_stripped(own)]
    return joined([*found, Words(text), *last])


def _stripped(pieces: list[Piece]) -> list[Piece]:
    """Pieces without the spaces at their ends."""
    found = list(pieces)
    if found and isinstance(first := found[0], Words):
        found[0] = Words(first.text.lstrip())
    if found and isinstance(last := found[-1], Words):
        found[-1] = Words(last.text.rstrip())
    return found
