"""`graftlm fit`: train one run."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from graftlm.cli._options import data_values, given, layered, read_config

Text = Optional[str]  # noqa: UP045 (typer reads it on every Python)
Number = Optional[int]  # noqa: UP045
Real = Optional[float]  # noqa: UP045


def fit(
    config: Annotated[Optional[Path], typer.Argument(help="A YAML file of options; flags win over it.")] = None,  # noqa: UP045
    model: Annotated[Text, typer.Option(help="minilm, smollm2, a local folder or a hub name.")] = None,
    task: Annotated[Text, typer.Option(help="classification or regression.")] = None,
    data: Annotated[Text, typer.Option(help="A folder of splits, one file, or a datasets name.")] = None,
    method: Annotated[Text, typer.Option(help="See `graftlm methods`.")] = None,
    out: Annotated[Text, typer.Option(help="The run's folder.")] = None,
    seed: Annotated[Number, typer.Option(help="Same seed, same result.")] = None,
    columns: Annotated[Text, typer.Option(help="Ours to theirs: text=body,label=stars.")] = None,
    split: Annotated[Text, typer.Option(help="Fractions of one file: train=0.8,validation=0.1,test=0.1.")] = None,
    shots: Annotated[Number, typer.Option(help="Few-shot: this many examples a label, as many to validate.")] = None,
    shots_seed: Annotated[Number, typer.Option(help="Which few-shot sets are drawn.")] = None,
    mark: Annotated[Text, typer.Option(help="Entity columns to mark in the text: head,tail.")] = None,
    pooling: Annotated[Text, typer.Option(help="default (the architecture's own), first, last or mean.")] = None,
    lr: Annotated[Real, typer.Option(help="Learning rate; each method has its own default.")] = None,
    epochs: Annotated[Real, typer.Option(help="Passes over the training examples.")] = None,
    batch_size: Annotated[Number, typer.Option(help="Examples a batch.")] = None,
    precision: Annotated[Text, typer.Option(help="fp32 or bf16.")] = None,
    max_seconds: Annotated[Real, typer.Option(help="Stop training after this long.")] = None,
    eval_steps: Annotated[Number, typer.Option(help="Evaluate every so many steps instead of each epoch.")] = None,
    patience: Annotated[Number, typer.Option(help="Stop after so many evaluations without a better metric.")] = None,
    option: Annotated[Optional[list[str]], typer.Option("--option", "-o", help="Any option: method.rank=4.")] = None,  # noqa: UP045
    predict: Annotated[bool, typer.Option("--predict", help="Write predictions.jsonl of validation.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Train one method on one task, and leave a folder with the adapter and its metrics.

    Example:

    graftlm fit --model minilm --task classification --data examples/data/tweets --method lora --out runs/tweets
    """
    training = given(
        learning_rate=lr,
        epochs=epochs,
        batch_size=batch_size,
        precision=precision,
        max_seconds=max_seconds,
        eval_steps=eval_steps,
        patience=patience,
    )
    flags = given(
        model=model,
        task=task,
        data=data_values(data, columns, split, mark, shots=shots, shots_seed=shots_seed),
        method={"name": method} if method else None,
        out=out,
        seed=seed,
        head=given(pooling=pooling),
        training=training,
        predict=predict or None,
        overwrite=overwrite or None,
    )
    values = layered(read_config(config), flags, option or [])
    _run(values, quiet)


def _run(values: dict[str, object], quiet: bool) -> None:
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.errors import UserError
    from graftlm.core.settings import FitConfig

    for name in ("model", "data", "method", "out"):
        if not values.get(name):
            raise UserError(f"--{name} is missing; see graftlm fit --help")
    resolved = FitConfig.parse(values)
    hush()
    from graftlm.recipes.fit import fit as job

    reporter = ConsoleReporter(quiet=quiet)
    record = job(resolved, reporter)
    counts = record.parameters
    share = 100 * (counts["delta"] + counts["head"]) / counts["base"]
    rows = [[name, f"{value:.4f}"] for name, value in record.metrics.items()]
    rows += [
        ["trained: method + head", f"{counts['delta']:,} + {counts['head']:,} ({share:.2f} % of the base)"],
        ["stored", f"{counts['kept']:,}"],
        ["steps", f"{record.steps:,} ({record.stopped})"],
        ["seconds", f"{record.seconds:.1f}"],
    ]
    reporter.table(f"{record.out}: validation", ["", ""], rows)
    reporter.line(f'next: graftlm predict {record.out} --text "…"')
