"""One job: show what a template becomes of an example, token by token, without a model's weights."""

from dataclasses import dataclass

from graftlm import tasks
from graftlm.checkpoint import blank, load_tokenizer, resolve
from graftlm.core.errors import UserError
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig, PromptConfig
from graftlm.prompts import Filled, Filler, Token, filler_of, parse, value_of
from graftlm.recipes._prompt_head import asking_for
from graftlm.recipes._room import row_room
from graftlm.sites import Sites


@dataclass(frozen=True)
class Shown:
    """A row a token: its place, the token, whose it is, and what is done with it. `lines` say it in short."""

    rows: list[list[str]]
    lines: list[str]


def examples_of(data: DataConfig, prompt: PromptConfig, task: str, split: str) -> tuple[list[Example], dict[str, str]]:
    """A split's examples with what the template has fields for, and the other names of its texts."""
    problem = asking_for(tasks.parse({}, task), prompt)
    loaded = tasks.load(data, problem, splits=(split,), fields=parse(prompt.template).fields)
    return loaded.splits[split], dict(loaded.aliases)


def show(model: str, prompt: PromptConfig, example: Example, max_length: int | None = None) -> Shown:
    """The template filled with an example, as a model takes it in at most `max_length` tokens beside virtual ones."""
    source = resolve(model)
    backbone = blank(source, "own")
    tokenizer = load_tokenizer(source)
    sites = Sites(backbone, tokenizer)
    filler = filler_of(prompt, tokenizer, sites)
    most = min(int(tokenizer.model_max_length), sites.positions or 1 << 20, 1 << 20)
    if max_length is not None and max_length > most:
        raise UserError(f"max_length = {max_length}, but {model} has {most} positions")
    room = row_room(max_length, most, filler.virtual)
    values = {name: value_of(example, name, prompt.aliases) for name in filler.template.fields}
    filled = filler.fill([values], room)[0]
    rows: list[list[str]] = []
    place = 0
    for token in filled.tokens:
        rows.append(["–" if token.cut else str(place), _written(token, filler, sites), *_said(token, filler)])
        place += not token.cut
    return Shown(rows, _lines(filled, filler, room))


def _written(token: Token, filler: Filler, sites: Sites) -> str:
    if token.owner == "soft":
        return f"virtual {token.id - sites.vocabulary + 1}"
    return str(filler.frame.tokenizer.convert_ids_to_tokens(token.id))


def _said(token: Token, filler: Filler) -> list[str]:
    whose = str(filler.template.pieces[token.piece]) if token.owner == "field" else token.owner
    return [whose, str(token.kind), "cut" if token.cut else ""]


def _lines(filled: Filled, filler: Filler, room: int) -> list[str]:
    cut, soft = (
        sum(token.cut for token in filled.tokens),
        len({token.id for token in filled.tokens if token.owner == "soft"}),
    )
    lines = [f"{len(filled.kept)} tokens of at most {room}; {cut} cut; {soft} virtual"]
    if not filler.template.masks:
        return [*lines, "the model writes behind it"]
    places = ", ".join(map(str, filled.places))
    where = {
        "masked": f"the mask is at {places}",
        "causal": f"the word is foreseen behind the token at {places}",
        "sentinel": f"the mask is at {places}, and the decoder is asked behind the same sentinel",
        "denoising": f"the mask is at {places}, and the decoder is asked behind the words before it",
    }
    return [*lines, where[filler.frame.kind]]
