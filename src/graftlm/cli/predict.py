"""`graftlm predict`: ask a run."""

import io
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from graftlm.cli._options import marks, pairs, task_values
from graftlm.core.errors import UserError

STDIN = "standard input"


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    text: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A text; may be given several times.")] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="The second text of a pair; one for each --text.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSONL, CSV or Parquet; - reads JSON lines or a text a line from stdin."),
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of standard output.")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="OURS=THEIRS,…", help="As text=body; those of training by default.")
    ] = None,
    mark: Annotated[str | None, typer.Option(metavar="COLUMN,COLUMN", help="Entities to mark in the text.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Texts a batch.", min=1)] = 64,
    rank: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Candidates; each text's nearest ones, by a run of matching.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="How many candidates --rank gives; 10 by default.", min=1)
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of its task: task.beams=4.")
    ] = None,
    gates: Annotated[
        bool, typer.Option("--gates", help="Add the gates' values; a table of them, and a plot in RUN/gates.html.")
    ] = False,
    precision: Annotated[str, typer.Option(metavar="KIND", help="Of the base's weights: fp32 or bf16.")] = "fp32",
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Print a JSON line for each text.

    It holds what the run's task answers with, as the label and all labels' probabilities, the score or a text; and the
    input's id where it has one.

    \b
    Example:
      graftlm predict runs/tweets --text "what a day :)" --text "not again"
    """
    _check(text or [], text_pair or [], file, to, rank)
    if file is None and rank is None and (columns or mark):
        raise UserError(f"--{'columns' if columns else 'mark'} is of the columns of --file; a --text has none")
    if top is not None and rank is None:
        raise UserError("--top says how many candidates of --rank FILE are given; name that file too")
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.settings import precision_of

    hush()
    from graftlm.checkpoint import adapter_folder, load_card

    kind = precision_of(precision)
    card = load_card(Path(run))
    _check_apart(to, "a file of the run", adapter_folder(Path(run)).iterdir())
    stored = card.data
    names = marks(mark) or stored.get("mark")
    found = pairs(columns, "--columns") or stored.get("columns")
    if file is not None:
        from graftlm.recipes.predict import fields_of

        given_marks = (names[0], names[1]) if names else None
        inputs: Sequence[Any] = _read(file, found, given_marks, card.task, fields_of(card))
    else:
        inputs = list(zip(text or [], text_pair, strict=True)) if text_pair else text or []
    from graftlm.recipes.predict import load

    reporter = ConsoleReporter(quiet=quiet)
    predictor = load(run, reporter, task=task_values(option), fold=True, precision=kind)
    if rank is not None:
        from graftlm.tasks import read_candidates

        candidates = read_candidates(rank, found, stored=not columns)
        answers = predictor.rank(inputs, candidates, top or 10, batch_size, reporter)
    else:
        answers = predictor.predict(inputs, batch_size, reporter)
    rows = [_named(given, answer) for given, answer in zip(inputs, answers, strict=True)]
    if gates:
        from graftlm.cli._gates import show

        found = {name: values.tolist() for name, values in predictor.gates(inputs, batch_size, reporter).items()}
        show(found, Path(run), reporter)
        rows = [
            {**row, "gates": {name: round(values[place], 4) for name, values in found.items()}}
            for place, row in enumerate(rows)
        ]
    if to is not None:
        from graftlm.core.files import write_jsonl

        write_jsonl(to, rows)
        reporter.line(f"{len(rows)} answers in {to}")
        return
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def _check(text: Sequence[str], text_pair: Sequence[str], file: str | None, to: Path | None, rank: Path | None) -> None:
    """Refuses what does not fit together, before a model is loaded."""
    if bool(text) == (file is not None):
        raise UserError("give either --text or --file")
    if text_pair and len(text_pair) != len(text):
        raise UserError(f"{len(text)} --text but {len(text_pair)} --text-pair; each text needs one")
    for given in (*text, *text_pair):
        try:
            given.encode()
        except UnicodeEncodeError:
            raise UserError(f"the text {given[:40]!a} is not UTF-8") from None
    if to is not None and to.is_dir():
        raise UserError(f"--to {to} is a folder; name a file")
    if to is not None and not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    _check_apart(to, "the file of the texts", [Path("/dev/stdin" if file == "-" else file)] if file else [])
    _check_apart(to, "the file of the candidates", [rank] if rank else [])


def _check_apart(to: Path | None, what: str, read: Iterable[Path]) -> None:
    """Refuses to write the answers over what they are made from."""
    from graftlm.core.files import same_file

    if to is not None and any(same_file(to, path) for path in read):
        raise UserError(f"--to {to} is {what}, which the answers would replace; name another file")


def _read(
    file: str,
    columns: Mapping[str, str] | None,
    mark: tuple[str, str] | None,
    task: str,
    fields: Collection[str],
) -> Sequence[Any]:
    """The texts of a file. Standard input holds JSON lines if its first line is an object, else a text a line."""
    from graftlm.tasks import read_texts

    if file != "-":
        return read_texts(file, columns, mark, task, fields)
    content = sys.stdin.buffer.read()
    if content.lstrip()[:1] == b"{":
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "stdin.jsonl"
            copy.write_bytes(content)
            try:
                return read_texts(copy, columns, mark, task, fields)
            except UserError as error:
                raise UserError(str(error).replace(str(copy), STDIN)) from None
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline=None)  # ends as in a file, not as in a text
        texts = [line.removesuffix("\n") for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{STDIN} line {line} is not UTF-8") from None
    if not texts:
        raise UserError(f"{STDIN} holds no texts")
    return texts


def _named(given: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
    name = getattr(given, "id", None)
    return dict(answer) if name is None else {"id": name, **answer}
