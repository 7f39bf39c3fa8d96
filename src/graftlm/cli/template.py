"""`graftlm template`: a filled template, token by token."""

from typing import Annotated

import typer

from graftlm.cli._options import data_values
from graftlm.core.errors import UserError


def template(
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="As '{text} It was {mask}.'")],
    model: Annotated[str, typer.Option(metavar="NAME", help="See graftlm models; a folder or hub name too.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="A folder of splits, a file, a datasets name.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Which split; train by default.")] = None,
    row: Annotated[
        int | None, typer.Option(metavar="N", help="Which example, from 1, which is the default.", min=1)
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="A text in place of --data.")] = None,
    text_pair: Annotated[str | None, typer.Option(metavar="TEXT", help="The second text of a pair.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the data is for; classification by default.")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="OURS=THEIRS,…", help="As text=body,label=stars.")] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", help="Cut to N tokens, as training would.", min=1)
    ] = None,
) -> None:
    """Show what a template becomes of an example.

    Each token with whose it is, what is virtual, where the mask is, and what is cut. The weights are not loaded.

    \b
    Example:
      graftlm template '{text:shorten} It was {mask}' --model smollm2 \\
        --text "A fine day"
      graftlm template '{text:shorten} {soft:2} It was {mask}' --model smollm2 \\
        --data examples/data/tweets
    """
    from graftlm.cli._console import ConsoleReporter, hush
    from graftlm.core.settings import DataConfig, PromptConfig

    if (data is None) == (text is None):
        raise UserError("give either --data or --text")
    if data is not None and text_pair is not None:
        raise UserError("--text-pair goes with --text; --data has the second texts itself")
    of_data = {"--split": split, "--row": row, "--columns": columns}
    if data is None and (used := [name for name, value in of_data.items() if value is not None]):
        raise UserError(f"{', '.join(used)}: of --data alone; leave it out with --text")
    split, row, task = split or "train", row or 1, task or "classification"
    prompt = PromptConfig.parse({"template": template, "verbalizer": {"": ""}}, where="prompt.")
    hush()
    from graftlm.core.example import Example
    from graftlm.recipes.template import examples_of, show

    if data is None:
        example = Example(str(text), text_pair)
    else:
        config = DataConfig.parse(data_values(data, columns, {}, None), where="data.")
        examples, aliases = examples_of(config, prompt, task, split)
        if row > len(examples):
            raise UserError(f'--row {row}, but split "{split}" has {len(examples)} examples')
        example, prompt = examples[row - 1], prompt.model_copy(update={"aliases": aliases})
    shown = show(model, prompt, example, max_length)
    reporter = ConsoleReporter()
    reporter.table(f"{model}: {template}", ["place", "token", "whose", "segment", ""], shown.rows)
    for line in shown.lines:
        print(line)
