"""`graftlm predict`: ask a run."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graftlm.cli._options import marks, pairs
from graftlm.core.errors import UserError

Text = Optional[str]  # noqa: UP045 (typer reads it on every Python)
Texts = Optional[list[str]]  # noqa: UP045


def predict(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    text: Annotated[Texts, typer.Option(help="A text; may be given several times.")] = None,
    text_pair: Annotated[Texts, typer.Option(help="The second text, for a run on pairs; one for each --text.")] = None,
    file: Annotated[Text, typer.Option(help="A JSONL, CSV or Parquet file, or - for texts on standard input.")] = None,
    to: Annotated[Optional[Path], typer.Option(help="Write here instead of standard output.")] = None,  # noqa: UP045
    columns: Annotated[Text, typer.Option(help="Ours to theirs: text=body.")] = None,
    mark: Annotated[Text, typer.Option(help="Entity columns to mark in the text: head,tail.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts a batch.", min=1)] = 64,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Print one JSON line a text: its label and all labels' probabilities, or its score.

    Example:

    graftlm predict runs/tweets --text "what a day :)" --text "not again"
    """
    if bool(text) == bool(file):
        raise UserError("give either --text or --file")
    if text_pair and len(text_pair) != len(text or []):
        raise UserError(f"{len(text or [])} --text but {len(text_pair)} --text-pair; each text needs one")
    from graftlm.cli._console import ConsoleReporter, hush

    hush()
    from graftlm.checkpoint import load_card

    stored = load_card(Path(run)).data
    inputs = _inputs(text or [], text_pair, file, pairs(columns, "--columns") or stored.get("columns"), _mark(mark, stored))
    from graftlm.recipes.predict import load

    reporter = ConsoleReporter(quiet=quiet)
    answers = load(run, reporter).predict(inputs, batch_size, reporter)
    rows = [_named(given, answer) for given, answer in zip(inputs, answers, strict=True)]
    if to is not None:
        from graftlm.core.files import write_jsonl

        write_jsonl(to, rows)
        return
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def _mark(mark: str | None, stored: Any) -> tuple[str, str] | None:
    names = marks(mark) or stored.get("mark")
    return (names[0], names[1]) if names else None


def _inputs(
    texts: list[str], text_pairs: list[str] | None, file: str | None, columns: Any, mark: tuple[str, str] | None
) -> list[Any]:
    if file == "-":
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if file is not None:
        from graftlm.tasks import read_texts

        return read_texts(file, columns, mark)
    return list(zip(texts, text_pairs, strict=True)) if text_pairs else texts


def _named(given: Any, answer: dict[str, Any]) -> dict[str, Any]:
    name = getattr(given, "id", None)
    return answer if name is None else {"id": name, **answer}
