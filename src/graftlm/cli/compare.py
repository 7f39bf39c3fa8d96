"""`graftlm compare`: train many methods, rates and seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftlm.cli._options import check_prompt, given, layered, prompt_values, read_config
from graftlm.core.errors import UserError

if TYPE_CHECKING:
    from graftlm.cli._console import ConsoleReporter


def compare(
    config: Annotated[
        Path | None, typer.Argument(metavar="config.yaml", help="A YAML file of options; flags win.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="See graftlm models.")] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="classification (the default), tagging, …")] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="A folder of splits, a datasets name.")] = None,
    methods: Annotated[str | None, typer.Option(metavar="NAME,…", help="As lora,bitfit,lora+prefix.")] = None,
    formulation: Annotated[
        str | None, typer.Option(metavar="KIND,…", help="head,prompt compares both; by default what is given.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask the model's own LM head: '{text} It was {mask}.'")
    ] = None,
    verbalizer: Annotated[
        str | None, typer.Option(metavar="JSON", help='Each label\'s words: \'{"good": "great", "bad": "awful"}\'.')
    ] = None,
    multi_mask: Annotated[
        str | None, typer.Option(metavar="RULE", help="Words of several tokens; as of graftlm fit.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="KIND", help="Take the prompt's own leaning off: contextual or pmi.")
    ] = None,
    mlm_weight: Annotated[
        float | None, typer.Option(metavar="X", help="Masked language modelling beside the labels (PET), by so much.")
    ] = None,
    lr: Annotated[str | None, typer.Option(metavar="X,…", help="Learning rates; else each method's own.")] = None,
    shots: Annotated[str | None, typer.Option(metavar="N,…", help="Few-shot: N examples a label.")] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="How many seeds, from 0 on.")] = None,
    together: Annotated[int | None, typer.Option(metavar="N", help="The most runs in one pass.")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The comparison's new folder.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="As training.epochs=5.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with a comparison; runs that ended are kept.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Spread groups over a Ray cluster: auto, HOST:PORT, local.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only.")] = False,
) -> None:
    """Train many methods, rates and seeds in one pass over one base.

    The folder that it leaves holds report.html, results.csv, results.parquet, results.tex, and under runs/ an ordinary
    folder for each run.

    With --ray all machines must see the folder of --out, the data and the model under the same paths, as on a network
    file system. A machine that is lost costs what came after the last checkpoint.

    \b
    Example:
      graftlm compare --model minilm --data examples/data/tweets --shots 16 \\
        --methods lora,bitfit,prefix --seeds 3 --out runs/compared
      graftlm compare --model smollm2 --data examples/data/tweets --shots 16 \\
        --formulation head,prompt --methods lora,prefix --seeds 3 \\
        --out runs/formulations --template '{text:shorten} It was {mask}' \\
        --verbalizer '{"positive":"great","neutral":"okay","negative":"terrible"}'
    """
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.comparison import CompareConfig

    flags = given(
        model=model,
        task={"name": task} if task else None,
        data={"path": data} if data else None,
        methods=_listed(methods, "--methods"),
        formulations=_listed(formulation, "--formulation"),
        prompt=prompt_values(template, verbalizer, multi_mask, calibration=calibration, mlm_weight=mlm_weight),
        learning_rates=_listed(lr, "--lr"),
        shots=_listed(shots, "--shots"),
        seeds=seeds,
        together=together,
        out=out,
    )
    values = layered(read_config(config), flags, option or [])
    if resume is not None and values:
        values = {"out": str(resume), **values}
        if Path(values["out"]) != resume:
            raise UserError(f"--resume {resume} and out = {values['out']} differ; leave --out out")
    hush()
    from graftlm.recipes.compare import compare as job
    from graftlm.recipes.compare import resumed, stoppable

    if resume is not None and set(values) <= {"out"}:
        resolved = resumed(resume)
    else:
        for name in ("model", "data", "methods", "out"):
            if not values.get(name):
                help_ = "--resume DIR alone takes its own options" if resume else "see graftlm compare --help"
                raise UserError(f"--{name} is missing; {help_}")
        check_prompt(values.get("prompt"))
        resolved = CompareConfig.parse(values)
    reporter = ConsoleReporter(quiet=quiet)
    job(resolved, reporter, resume=resume is not None, ray=ray)
    with stoppable(Path(resolved.out)):
        _report(Path(resolved.out), reporter)


def _report(out: Path, reporter: "ConsoleReporter") -> None:
    from graftlm.reporting.report import report

    path, said = report([out])
    print(said)
    reporter.line(f"report: {path}")


def _listed(text: str | None, flag: str) -> list[str] | None:
    if text is None:
        return None
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise UserError(f'{flag} "{text}": write it as A,B,C')
    return found
