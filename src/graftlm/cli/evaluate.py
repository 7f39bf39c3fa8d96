"""`graftlm evaluate`: metrics of a run on one split."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftlm.cli._options import check_prompt, data_values, fractions, prompt_values, task_values
from graftlm.core.errors import UserError

if TYPE_CHECKING:
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.records import Evaluation

MOST = 12  # labels that a confusion matrix has room for on a screen


def evaluate(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder; without one, --model.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="A folder of splits, a file, a datasets name.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model to ask by --template and --verbalizer, untrained.")
    ] = None,
    template: Annotated[str | None, typer.Option(metavar="TEXT", help="As '{text} It was {mask}.'")] = None,
    verbalizer: Annotated[
        str | None, typer.Option(metavar="JSON", help='Each label\'s words: \'{"good": "great", "bad": "awful"}\'.')
    ] = None,
    multi_mask: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Words of several tokens: max-first, left-to-right, parallel or full."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="KIND", help="Take the prompt's own leaning off: contextual or pmi.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Of --model; classification by default.")] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which split.")] = "test",
    cut: Annotated[
        str | None, typer.Option(metavar="SPLIT=FRACTION,…", help="Cuts one file, as --split of fit does.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="OURS=THEIRS,…", help="As text=body; those of training by default.")
    ] = None,
    mark: Annotated[str | None, typer.Option(metavar="COLUMN,COLUMN", help="Entities to mark in the text.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unusable rows out, and count them.")] = False,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Examples a batch.", min=1)] = 64,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of its task: task.beams=4.")
    ] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Write predictions.jsonl too.")] = False,
    precision: Annotated[str, typer.Option(metavar="KIND", help="Of the base's weights: fp32 or bf16.")] = "fp32",
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Print a run's metrics on a split.

    They are written to metrics.json in its folder too. A model that was not trained is asked by a template (zero-shot).

    \b
    Example:
      graftlm evaluate runs/tweets --data examples/data/tweets --split test
      graftlm evaluate --model smollm2 --data examples/data/tweets \\
        --template '{text:shorten} It was {mask}' \\
        --verbalizer '{"positive":"great","neutral":"okay","negative":"terrible"}'
    """
    _check(run, model, data, template or verbalizer or task or multi_mask or calibration)
    if model is not None and predict:
        raise UserError("--predict writes into a run's folder, and an untrained model has none; leave it out")
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.config import merged, overrides
    from graftlm.core.settings import DataConfig, precision_of

    found = data_values(data, columns, fractions(cut, "--cut"), mark, skip_bad=skip_bad or None)
    values = DataConfig.parse(found, where="data.")
    hush()
    from graftlm.recipes.evaluate import evaluate as job

    reporter = ConsoleReporter(quiet=quiet)
    asked_of: dict[str, Any] = {"batch_size": batch_size, "precision": precision_of(precision)}
    if run is not None:
        scores = job(run, values, split, reporter, predict=predict, task=task_values(option), **asked_of)
    else:
        from graftlm.core.settings import PromptConfig
        from graftlm.recipes.zero_shot import evaluate as untrained

        extra = overrides(option or ())
        asked = merged(
            prompt_values(template, verbalizer, multi_mask, calibration=calibration), extra.pop("prompt", {})
        )
        check_prompt(asked)
        prompt = PromptConfig.parse(asked, where="prompt.")
        options = extra.pop("task", {})
        if extra or not isinstance(options, dict):
            name = next(iter(extra), "task")
            raise UserError(
                f"-o {name}=…: an untrained model takes options of prompt and task, as prompt.calibration=pmi"
            )
        name = task or "classification"
        scores = untrained(str(model), prompt, values, split, reporter, task=name, options=options, **asked_of)
    title = f"{run or model}: {split}, {scores.examples:,} examples in {scores.seconds:.1f} s"
    reporter.table(title, ["metric", "value"], [[name, f"{value:.4f}"] for name, value in scores.metrics.items()])
    if scores.per_class:
        _show_classes(scores, reporter)


def _check(run: str | None, model: str | None, data: str | None, asked: str | None) -> None:
    """Refuses what does not fit together, before anything is loaded."""
    if (run is None) == (model is None):
        raise UserError("give either a run's folder, or --model with --template and --verbalizer")
    if data is None:
        raise UserError("--data is missing; see graftlm evaluate --help")
    if run is not None and asked is not None:
        raise UserError("a run has its own template, verbalizer and task; leave them out, or name --model in its place")


def _show_classes(found: "Evaluation", reporter: "ConsoleReporter") -> None:
    numbers = ("precision", "recall", "f1")
    rows = [
        [str(row["label"]), *(f"{row[name]:.4f}" for name in numbers), f"{row['support']:.0f}"]
        for row in found.per_class
    ]
    reporter.table("per class", ["label", *numbers, "examples"], rows)
    if not found.confusion:
        return
    if len(found.labels) <= MOST:
        counts = [[label, *map(str, row)] for label, row in zip(found.labels, found.confusion, strict=True)]
        reporter.table("confusion (rows: true, columns: predicted)", ["", *found.labels], counts)
        return
    wrong = [
        (count, true, predicted)
        for true, row in zip(found.labels, found.confusion, strict=True)
        for predicted, count in zip(found.labels, row, strict=True)
        if count and true != predicted
    ]
    worst = [[true, predicted, str(count)] for count, true, predicted in sorted(wrong, reverse=True)[:MOST]]
    if worst:
        reporter.table("most often confused", ["true", "predicted", "examples"], worst)
