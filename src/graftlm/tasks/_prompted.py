"""A row's fields as a prompt's token ids, and its target's; a prompt that is too long is cut at its longest field."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.tasks import _templates
from graftlm.tasks._features import Reading
from graftlm.tasks._read import Table, shown
from graftlm.tasks._rows import identity, listed, text

USUAL = {
    "text": ("text", "input", "source", "prompt", "question", "sentence", "document"),
    "target": ("target", "output", "answer", "completion", "response", "summary", "translation"),
}
Values = Mapping[str, str]


def column(name: str, columns: Collection[str], given: Mapping[str, str]) -> str | None:
    """The column of a template's field: as it is mapped, its own name, or for text and target a usual one."""
    theirs = given.get(name, name)
    if theirs in columns:
        return theirs
    folded = {column.casefold(): column for column in reversed(list(columns))}
    return next((folded[usual] for usual in USUAL.get(name, ()) if name not in given and usual in folded), None)


def columns_of(template: str, option: str, table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Their column for each field of a template."""
    found = {name: column(name, table.columns, given) for name in _templates.fields(template)}
    for name, theirs in found.items():
        if theirs is None:
            raise UserError(
                f'{table.where}: {option} has a field "{name}", and the columns are {", ".join(table.columns)}; '
                f"--columns {name}=COLUMN says which one it is"
            )
    return {name: theirs for name, theirs in found.items() if theirs is not None}


def cell(value: Any, at: str, name: str) -> str:
    """A cell as it stands in a template: a string or a finite number."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{at}: {name} is {'missing' if math.isnan(value) else value}")
    return str(value) if type(value) in (int, float) else text(value, at, name)


def texts(value: Any, at: str, name: str) -> list[str]:
    """A cell of several texts or numbers, or of one; none where it is blank, and what is blank in it is left out.

    A text that spells a list of texts is one, as CSV has it; one that spells another, as "[1, 2]", may be an answer.
    """
    spelled = listed(value.strip()) if isinstance(value, str) else None
    if isinstance(spelled, list) and all(isinstance(one, str) for one in spelled):
        value = spelled
    if not isinstance(value, list | tuple | str | int | float | None):
        raise UserError(f"{at}: {name} is {shown(value)}, not a list")
    several = value if isinstance(value, list | tuple) else [value]
    found = [cell(one, at, name) for one in several if one is not None]
    return [one for one in found if one.strip()]


def rows_of(table: Table, given: Mapping[str, str]) -> list[Example]:
    """Rows as they are, with all of their columns, by our names too."""
    examples: list[Example] = []
    for row in range(len(table)):
        own = {name: values[row] for name, values in table.columns.items()}
        own |= {ours: own[theirs] for ours, theirs in given.items() if theirs in own}
        named = given.get("id", "id")
        found = identity(table, row, named if named in own else None)
        examples.append(Example("", id=found, at=table.at(row), meta={"row": own}))
    return examples


def values_of(example: Example, template: str) -> dict[str, str]:
    """The values of a template's fields; an example that is no row gives its text to the only field there is."""
    names = _templates.fields(template)
    row: Mapping[str, Any] = example.meta.get("row", {})
    found = {name: column(name, row, {}) for name in names}
    missing = next((name for name, theirs in found.items() if theirs is None), None)
    if missing is None:
        return {name: cell(row[theirs], example.at, name) for name, theirs in found.items() if theirs is not None}
    if not row and len(names) == 1:
        return {missing: example.text}
    has = f"has {', '.join(row)}" if row else "is a text alone"
    raise UserError(
        f'{example.at or "an input"} {has}, and task.prompt has a field "{missing}"; a file with such a column would '
        "work, or --columns that maps one"
    )


def prompts(
    rows: Sequence[Values], rendered: Callable[[Values], str], reading: Reading, room: int, bare: bool
) -> tuple[list[list[int]], int]:
    """Each row's prompt as at most `room` ids, and how many were cut. `bare`: the text has its special tokens in it."""
    tokenizer = reading.tokenizer

    def ids_of(texts: list[str]) -> list[list[int]]:
        found = tokenizer(texts, add_special_tokens=not bare, return_attention_mask=False, verbose=False)["input_ids"]
        return [ids or [reading.end] if bare else _open(ids, reading) for ids in found]

    found = ids_of([rendered(row) for row in rows]) if rows else []
    long = [place for place, ids in enumerate(found) if len(ids) > room]
    for place in long:
        found[place] = _shortened(rows[place], lambda values: ids_of([rendered(values)])[0], room)
    return found, len(long)


def _open(ids: list[int], reading: Reading) -> list[int]:
    """A prompt that a text can follow: without the end that some tokenizers put after it."""
    if not reading.apart:
        while ids and ids[-1] == reading.end:
            ids = ids[:-1]
    return ids or [reading.end]


def _shortened(values: Values, ids_of: Callable[[Values], list[int]], room: int) -> list[int]:
    """The ids with as much of the longest field as there is room for, and of the next one where that is not enough."""
    kept = dict(values)
    for name in sorted(kept, key=lambda name: -len(kept[name])):
        whole, low, high = kept[name], 0, len(kept[name])
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(ids_of({**kept, name: whole[:middle]})) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        kept[name] = whole[:low]
        if len(ids := ids_of(kept)) <= room:
            return ids
    raise UserError(
        f"task.prompt alone has {len(ids_of(dict.fromkeys(kept, '')))} tokens, and there is room for {room}; a shorter "
        "one would work"
    )


def targets(texts: Sequence[str], reading: Reading) -> list[list[int]]:
    """What the model should write, ids with the end behind them."""
    tokenizer = reading.tokenizer
    if not texts:
        return []
    options: dict[str, Any] = {"return_attention_mask": False, "verbose": False}
    if reading.apart:
        found = tokenizer(text_target=list(texts), **options)["input_ids"]
    else:
        found = tokenizer(list(texts), add_special_tokens=False, **options)["input_ids"]
    return [ids if ids[-1:] == [reading.end] else [*ids, reading.end] for ids in found]


def chat(tokenizer: Any, template: str | None, system: str) -> Callable[[str], str]:
    """A prompt as the user's turn of a conversation, with the assistant's turn begun."""

    def turn(prompt: str) -> str:
        said = [{"role": "system", "content": system}] if system else []
        said.append({"role": "user", "content": prompt})
        try:
            found = tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=True, chat_template=template
            )
        except Exception as error:  # templates are programs, and raise what they like
            raise UserError(f"the chat template cannot take {shown(prompt[:40])}: {error}") from None
        return str(found)

    return turn
