"""`graftlm fit`: train one run."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftlm.cli._options import check_prompt, data_values, fractions, given, layered, prompt_values, read_config
from graftlm.core.errors import UserError

if TYPE_CHECKING:
    from graftlm.core.records import RunRecord
    from graftlm.core.reporter import Reporter


def fit(
    config: Annotated[
        Path | None, typer.Argument(metavar="config.yaml", help="A YAML file of options; flags win.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="See graftlm models; a folder or hub name too.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="classification (the default), tagging, spans, …")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="A folder of splits, a file, a datasets name.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="See graftlm methods.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask the model's own LM head: '{text} It was {mask}.'")
    ] = None,
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
    mlm_weight: Annotated[
        float | None, typer.Option(metavar="X", help="The share of masked language modelling in a prompt's loss.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run's new folder.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same result; 0 by default.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="OURS=THEIRS,…", help="As text=body,label=stars.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="SPLIT=FRACTION,…", help="Cuts one file: train=0.8,test=0.2.")
    ] = None,
    shots: Annotated[int | None, typer.Option(metavar="N", help="Few-shot: N examples a label, N to validate.")] = None,
    shots_seed: Annotated[int | None, typer.Option(metavar="N", help="Which few-shot sets are drawn.")] = None,
    mark: Annotated[str | None, typer.Option(metavar="COLUMN,COLUMN", help="Entities to mark in the text.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unusable rows out, and count them.")] = False,
    pooling: Annotated[str | None, typer.Option(metavar="KIND", help="default, first, last or mean.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Learning rate; by default the method's own.")] = None,
    epochs: Annotated[float | None, typer.Option(metavar="X", help="Passes over the training examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Examples a batch.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="KIND", help="fp32 or bf16.")] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="KIND", help="auto keeps what is frozen below all that is trained; off.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(metavar="X", help="Stop training after so long.")] = None,
    eval_steps: Annotated[int | None, typer.Option(metavar="N", help="Evaluate every N steps, not each epoch.")] = None,
    patience: Annotated[int | None, typer.Option(metavar="N", help="Stop after N evaluations without gain.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Any option: method.rank=4.")
    ] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Write predictions.jsonl of validation.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted run, with its own options.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Train a method on a task.

    The folder that it leaves holds the adapter, its settings, its metrics and the history of its training.

    \b
    Example:
      graftlm fit --model minilm --task classification \\
        --data examples/data/tweets --method lora --out runs/tweets
      graftlm fit --model smollm2 --data examples/data/tweets --shots 16 \\
        --method lora --out runs/prompted \\
        --template '{text:shorten} It was {mask}' \\
        --verbalizer '{"positive":"great","neutral":"okay","negative":"terrible"}'
    """
    training = given(
        learning_rate=lr,
        epochs=epochs,
        batch_size=batch_size,
        precision=precision,
        cache=cache,
        max_seconds=max_seconds,
        eval_steps=eval_steps,
        patience=patience,
    )
    flags = given(
        model=model,
        task={"name": task} if task else None,
        data=data_values(
            data, columns, fractions(split), mark, shots=shots, shots_seed=shots_seed, skip_bad=skip_bad or None
        ),
        method={"name": method} if method else None,
        prompt=prompt_values(template, verbalizer, multi_mask, calibration=calibration, mlm_weight=mlm_weight),
        out=out,
        seed=seed,
        head=given(pooling=pooling),
        training=training,
        predict=predict or None,
        overwrite=overwrite or None,
    )
    values = layered(read_config(config), flags, option or [])
    if resume is None:
        _run(values, quiet)
    elif values:
        raise UserError(f"--resume takes the run's own options; leave out {', '.join(sorted(values))}")
    else:
        _go_on(resume, quiet)


def _go_on(out: Path, quiet: bool) -> None:
    from graftlm.cli._console import hush
    from graftlm.cli._console import reporter as speaking

    hush()
    from graftlm.recipes.fit import resume

    reporter = speaking(quiet=quiet)
    _show(resume(out, reporter), reporter)


def _run(values: dict[str, object], quiet: bool) -> None:
    from graftlm.cli._console import hush
    from graftlm.cli._console import reporter as speaking
    from graftlm.core.settings import FitConfig

    for name in ("model", "data", "method", "out"):
        if not values.get(name):
            raise UserError(f"--{name} is missing; see graftlm fit --help")
    check_prompt(values.get("prompt"))
    resolved = FitConfig.parse(values)
    hush()
    from graftlm.recipes.fit import fit as job

    reporter = speaking(quiet=quiet)
    _show(job(resolved, reporter), reporter)


def _show(record: "RunRecord", reporter: "Reporter") -> None:
    reporter.table(f"{record.out}: {'validation' if record.metrics else 'done'}", ["", ""], _rows(record))
    reporter.line(f'next: graftlm predict {shlex.quote(str(record.out))} --text "…"')


def _rows(record: "RunRecord") -> list[list[str]]:
    counts = record.parameters
    share = 100 * (counts["delta"] + counts["head"]) / counts["base"]
    return [
        *([name, f"{value:.4f}"] for name, value in record.metrics.items()),
        ["trained: method + head", f"{counts['delta']:,} + {counts['head']:,} ({share:.2f} % of the base)"],
        ["stored", f"{counts['kept']:,}"],
        ["steps", f"{record.steps:,} ({record.stopped})"],
        ["seconds", f"{record.seconds:.1f}"],
    ]
