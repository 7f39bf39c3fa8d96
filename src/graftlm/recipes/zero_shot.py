"""One job: ask a model that was not trained, by a template and the words of each label."""

import time
from collections.abc import Mapping
from typing import Any

from graftlm import methods, tasks
from graftlm.checkpoint import load_base
from graftlm.core.errors import UserError
from graftlm.core.records import Evaluation
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import DataConfig, HeadConfig, Precision, PromptConfig
from graftlm.prompts import needs, parse, words_of
from graftlm.recipes._building import build
from graftlm.recipes._prompt_head import PromptHead, asking_for, check_formulation
from graftlm.recipes._seen import drawn, look
from graftlm.recipes._speed import lower
from graftlm.recipes.predict import OWN, RUN


def evaluate(
    model: str,
    prompt: PromptConfig,
    data: DataConfig,
    split: str = "test",
    reporter: Reporter | None = None,
    *,
    task: str = "classification",
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
) -> Evaluation:
    """Metrics of a model on a split, of which nothing is trained and nothing written. `options` are the task's,
    `precision` that of the model's weights.

    The labels are those of the verbalizer, in its order. Virtual tokens are refused unless they start from words, and a
    verbalizer that learns from labels is, too; one that looks at texts alone looks at those that it is asked about.
    """
    reporter = reporter or Warned()
    template = parse(prompt.template)
    if any(not piece.words for piece in template.softs):
        raise UserError(
            f'template "{template}" has virtual tokens that were not trained; words in their place, as '
            '{"soft": "It was"}, would work'
        )
    if needs(prompt) == "labels":
        raise UserError(
            f'the verbalizer "{prompt.verbalizer["name"]}" is found in labelled examples; graftlm fit has them'
        )
    names = () if tasks.task(task).READS == "score" else tuple(words_of(prompt.verbalizer))
    problem = asking_for(tasks.parse(options or {}, task, names), prompt)
    check_formulation(problem, HeadConfig())
    loaded = tasks.load(data, problem, splits=(split,), labels=names or None, fields=template.fields)
    for note in loaded.notes:
        reporter.line(note)
    prompt = prompt.model_copy(update={"aliases": loaded.aliases})
    base, nothing = load_base(model, head=OWN), methods.parse("head", {})
    if needs(prompt):
        texts = drawn(loaded.splits[split], 0, labelled=needs(prompt) == "labels")
        prompt, _ = look(base, {RUN: nothing}, prompt, problem, texts, 0, None, batch_size)
    built = build(base, {RUN: nothing}, HeadConfig(), problem, {RUN: 0}, {RUN: prompt}, trains=False)
    for note in built.head.prompts[RUN].verbalizer.notes if isinstance(built.head, PromptHead) else ():
        reporter.warn(note)
    lower(built, precision, reporter)
    built.attached.quicken()
    started = time.perf_counter()
    encoded = built.encode(loaded.splits[split], RUN)
    for note in encoded.notes:
        reporter.warn(note)
    answer = built.answer(encoded, RUN, batch_size, reporter, "predict")
    seconds = time.perf_counter() - started
    metrics, details = built.metrics(answer, encoded), problem.module.details(answer, encoded, problem)
    primary = problem.module.measures(problem)[0]
    return Evaluation(
        split, metrics, primary, names, details.per_class, details.confusion, len(encoded.examples), seconds
    )
