"""`graftlm report`: a comparison as a page, made anew from its runs' folders."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders of comparisons, or of runs; several are merged.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; the first DIR by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="The verdict only.")] = False,
) -> None:
    """Write the report of comparisons from their runs' folders.

    It leaves report.html, which needs no other file and no network, results.csv, results.parquet and results.tex.

    \b
    Example:
      graftlm report runs/compared
    """
    from graftlm.cli._console import ConsoleReporter
    from graftlm.reporting.report import report as job

    reporter = ConsoleReporter(quiet=quiet)
    path, said = job(folders, out)
    print(said)
    reporter.line(f"report: {path}")
