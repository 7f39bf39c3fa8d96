"""Attaches runs and their heads, or what reads their prompts, to a base."""

from collections.abc import Mapping

from graftlm.checkpoint import Base
from graftlm.core.errors import UserError
from graftlm.core.settings import HeadConfig, PromptConfig
from graftlm.methods import MethodConfig, acts, attach
from graftlm.prompts import Opening, Prompt, bound, gapped, opened
from graftlm.recipes._model import TaskModel
from graftlm.recipes._prompt_head import PromptHead, check_formulation
from graftlm.recipes._prompt_head import must_train as must_train_prompts
from graftlm.recipes._room import in_front, room_for, virtual_of
from graftlm.sites import Attached
from graftlm.tasks import (
    LanguageHead,
    Problem,
    SequenceHead,
    TokenHead,
    VectorHead,
    must_train,
)


def build(
    base: Base,
    methods: Mapping[str, MethodConfig],
    head: HeadConfig,
    problem: Problem,
    seeds: Mapping[str, int],
    prompts: Mapping[str, PromptConfig] | None = None,
    *,
    trains: bool = True,
) -> TaskModel:
    """Attaches the runs and their heads, or with `prompts`, one for each run, what reads them; `trains`: a run that
    would train nothing is refused."""
    size = sum(parameter.numel() for parameter in base.model.parameters())
    asked = _bound(base, methods, problem, head, prompts) if prompts else {}
    beside = {run: [prompt.act] for run, prompt in asked.items() if prompt.act is not None}
    attached = attach(base.model, methods, seeds=seeds, tokenizer=base.tokenizer, missing=base.missing, beside=beside)
    outputs = problem.module.outputs(problem)
    worded = {run: prompt for run, prompt in asked.items() if isinstance(prompt, Prompt)}
    if worded:
        made = PromptHead(attached, worded, outputs)
        if trains:
            must_train_prompts(attached, worded)
    elif problem.base_head is not None:
        made = LanguageHead(attached, head, trains=trains)
        problem = speaking(problem, base, attached)
    elif problem.module.HEAD == "vectors":
        must_train(attached)
        made = VectorHead(attached, head)
    elif problem.module.HEAD == "tokens":
        made = TokenHead(attached, head, outputs)
    else:
        made = SequenceHead(attached, head, outputs, base.missing)
    virtual = {run: virtual_of(attached, run) for run in methods}
    limits = {run: room_for(base, attached.sites, attached.acts[run], run) for run in methods}
    return TaskModel(base, attached, made, problem, virtual, limits, size, prompts=asked)


def _bound(
    base: Base,
    methods: Mapping[str, MethodConfig],
    problem: Problem,
    head: HeadConfig,
    prompts: Mapping[str, PromptConfig],
) -> Mapping[str, Prompt | Opening]:
    """Each run's template and verbalizer on this model, which nothing is attached to yet."""
    check_formulation(problem, head)
    sites, scored = base.sites(), problem.module.READS == "score"
    front = {run: in_front(acts(methods[run], sites)) for run in prompts}
    if problem.base_head is not None:
        made = opened if problem.base_head == "lm" else gapped
        return {run: made(prompt, base.tokenizer, sites, front[run]) for run, prompt in prompts.items()}
    return {
        run: bound(prompt, problem.labels, base.tokenizer, sites, front[run], scored=scored)
        for run, prompt in prompts.items()
    }


def speaking(problem: Problem, base: Base, attached: Attached) -> Problem:
    """The problem with what its options take from the tokenizer; refuses a cache beside what sees the whole text."""
    cached = problem.base_head == "lm" and problem.options.cache
    for run, why in attached.router.whole_text.items() if cached else ():
        raise UserError(
            f'run "{run}" {why} the whole text, which a cache does not hold; -o task.cache=false writes without one'
        )
    return problem.module.prepared(problem, base.tokenizer)
