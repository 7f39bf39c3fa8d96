"""`graftlm evaluate`: metrics of a run on one split."""

from typing import Annotated, Optional

import typer

from graftlm.cli._options import data_values

Text = Optional[str]  # noqa: UP045 (typer reads it on every Python)


def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    data: Annotated[str, typer.Option(help="A folder of splits, one file, or a datasets name.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    columns: Annotated[Text, typer.Option(help="Ours to theirs: text=body,label=stars.")] = None,
    mark: Annotated[Text, typer.Option(help="Entity columns to mark in the text: head,tail.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a batch.", min=1)] = 64,
    predict: Annotated[bool, typer.Option("--predict", help="Write predictions.jsonl too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Print a run's metrics on a split, and write them to metrics.json in its folder.

    Example:

    graftlm evaluate runs/tweets --data examples/data/tweets --split test
    """
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.settings import DataConfig

    values = DataConfig.parse(data_values(data, columns, None, mark), where="data.")
    hush()
    from graftlm.recipes.evaluate import evaluate as job

    reporter = ConsoleReporter(quiet=quiet)
    found = job(run, values, split, reporter, predict=predict, batch_size=batch_size)
    title = f"{run}: {split}, {found.examples:,} examples in {found.seconds:.1f} s"
    reporter.table(title, ["metric", "value"], [[name, f"{value:.4f}"] for name, value in found.metrics.items()])
    if found.per_class:
        numbers = ("precision", "recall", "f1")
        rows = [
            [str(row["label"]), *(f"{row[name]:.4f}" for name in numbers), f"{row['support']:.0f}"] for row in found.per_class
        ]
        reporter.table("per class", ["label", *numbers, "examples"], rows)
        counts = [[f"{label}", *map(str, row)] for label, row in zip(found.labels, found.confusion, strict=True)]
        reporter.table("confusion (rows: true, columns: predicted)", ["", *found.labels], counts)
