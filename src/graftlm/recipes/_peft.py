"""A run whole in PEFT's words: its method's form, and its head's layers under the names that PEFT saves them by."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from graftlm.core.settings import HeadConfig
from graftlm.methods import WHOLE, MethodConfig, NoWordsError, PeftForm, kept, peft_form
from graftlm.recipes._model import TaskModel
from graftlm.recipes._prompt_head import PromptHead
from graftlm.sites import Act, Branch, Sites, Tensors, Tokens
from graftlm.tasks import LanguageHead, SequenceHead, head_keys

# Modules whose names end so are saved by PEFT for SEQ_CLS and TOKEN_CLS, the last for QUESTION_ANS, unasked. They are
# named for methods on layers all the same, as PEFT does and vLLM asks, but not for prompt types, where older releases
# do not know the key.
SAVED_ANYHOW = ("classifier", "score", "qa_outputs")
TOKEN_TYPES = {"tagging": "TOKEN_CLS", "spelling": "TOKEN_CLS", "spans": "QUESTION_ANS"}
SEGMENTS = (
    "PEFT's own class for QUESTION_ANS does not hand token_type_ids on, so its logits of a question and a context "
    "differ from this run's; for a method on layers its inner model (`.base_model`) takes them and gives the same"
)


def method_form(method: MethodConfig, sites: Sites) -> PeftForm | None:
    """The method alone, on a model that nothing is attached to; None where PEFT has no words for it."""
    with suppress(NoWordsError):
        return peft_form(kept(method), sites)
    return None


def run_form(form: PeftForm | None, model: TaskModel, head: HeadConfig, run: str = "run") -> PeftForm | None:
    """The method and the head; None where PEFT has no words for one of them."""
    with suppress(NoWordsError):
        return None if form is None else with_head(form, model, head, run)
    return None


def with_head(form: PeftForm, model: TaskModel, head: HeadConfig, run: str = "run") -> PeftForm:
    """A method's form with the head beside it, as PEFT's SEQ_CLS saves it, for a head of tokens its TOKEN_CLS or
    QUESTION_ANS; NoWordsError where it cannot be said."""
    sites = model.attached.sites
    if isinstance(model.head, SequenceHead):
        _sayable(model, head, run)
        assert sites.head is not None
        kind, paths = "SEQ_CLS", head_keys(model.head, sites.head, sites.class_prefix)
    elif isinstance(model.head, PromptHead):
        kind, paths = _prompted(model.head, run), {}
    elif isinstance(model.head, LanguageHead) and model.task.HEAD == "lm":
        if run in model.prompts and model.prompts[run].act is not None:
            raise NoWordsError("PEFT has no words for virtual tokens in a template")
        kind, paths = "SEQ_2_SEQ_LM" if sites.encoder_decoder else "CAUSAL_LM", {}
    else:
        kind, paths = _token_paths(model, run)
    keys = {name: f"{form.head}{path}" for name, path in paths.items()}
    ours = {theirs: name for name, theirs in keys.items()}
    body = {**form.body, "task_type": kind, "base_model_name_or_path": model.base.source.path}
    modules = [_module(key.removeprefix(form.head), sites) for key in keys.values()]
    if paths and (form.head == WHOLE or not all(module.endswith(SAVED_ANYHOW) for module in modules)):
        body["modules_to_save"] = list(dict.fromkeys(modules))

    def write(tensors: Tensors) -> dict[str, Tensor]:
        method = {name: tensor for name, tensor in tensors.items() if name not in keys}
        return form.write(method) | {key: tensors[name] for name, key in keys.items()}

    def read(tensors: Tensors) -> dict[str, Tensor]:
        method = {name: tensor for name, tensor in tensors.items() if name not in ours}
        return form.read(method) | {name: tensors[key] for key, name in ours.items() if key in tensors}

    return replace(form, body=body, write=write, read=read, notes=(*form.notes, *segment_notes(model)))


def segment_notes(model: TaskModel) -> list[str]:
    """What PEFT's class leaves out of the rows of a task, if it does."""
    typed = "token_type_ids" in model.base.tokenizer.model_input_names
    return [SEGMENTS] if typed and TOKEN_TYPES.get(model.problem.task) == "QUESTION_ANS" else []


def _prompted(head: PromptHead, run: str) -> str:
    """PEFT's task type of a run whose template and verbalizer have nothing that would be lost there."""
    prompt = head.prompts[run]
    if prompt.act is not None or prompt.verbalizer.params:
        raise NoWordsError("PEFT has no words for virtual tokens in a template, or for a verbalizer that is trained")
    kinds = {"causal": "CAUSAL_LM", "sentinel": "SEQ_2_SEQ_LM", "denoising": "SEQ_2_SEQ_LM"}
    if prompt.frame.kind not in kinds:
        raise NoWordsError("PEFT has no task type for a masked language model")
    return kinds[prompt.frame.kind]


def _token_paths(model: TaskModel, run: str) -> tuple[str, dict[str, str]]:
    """PEFT's task type for a head of tokens, and the parameter names in the family's class for it."""
    sites, name = model.attached.sites, model.problem.task
    if name not in TOKEN_TYPES:
        raise NoWordsError(f"PEFT has no words for the head of {name}; it has them for {' and '.join(TOKEN_TYPES)}")
    if prompted(model.attached.acts[run]):
        raise NoWordsError(
            f"PEFT's virtual tokens move the places that {name} reads; a prefix or a method on layers can be said"
        )
    kind = TOKEN_TYPES[name]
    layer = sites.head and (sites.head.tagger if kind == "TOKEN_CLS" else sites.head.answerer)
    if not layer:
        raise NoWordsError(f'the class of "{sites.family}" that PEFT has for {kind} is not known here')
    return kind, token_keys(layer)


def prompted(acts: Sequence[Act]) -> bool:
    """Whether virtual tokens stand before the text."""
    return any(isinstance(act, Tokens) for act in acts)


def token_keys(layer: str) -> dict[str, str]:
    """Our names of a token head's tensors -> the parameter names in the family's class for it, whose `layer` it is."""
    return {f"head.{part}": f"{layer}.{part}" for part in ("weight", "bias")}


def _sayable(model: TaskModel, head: HeadConfig, run: str) -> None:
    sites = model.attached.sites
    if sites.head is None:
        raise NoWordsError(
            f'PEFT saves heads of known classes, and the architecture "{sites.family}" has no table that names its own'
        )
    if head.pooling not in ("default", "virtual"):
        raise NoWordsError(
            f"PEFT has no words for pooling = {head.pooling}: it takes the architecture's own, which is the default"
        )
    assert isinstance(model.head, SequenceHead)
    dense = model.head.dense_path if model.head.trains_dense else None
    if dense and any(isinstance(act, Branch) and act.site.module == dense for act in model.attached.acts[run]):
        raise NoWordsError(
            f"PEFT trains {dense} whole or through a method, not both; this base lacks it, so a run trains it whole: "
            "name the method's sites without it"
        )
    tokens = prompted(model.attached.acts[run])
    if tokens and sites.encoder_decoder:
        raise NoWordsError(f"PEFT's prompts are not taken by the classifier of {sites.family}; those of generation are")
    if tokens and sites.head.pool != "last" and head.pooling == "default":
        raise NoWordsError(
            f"PEFT counts a prompt's virtual tokens when {sites.family}'s head pools (the {sites.head.pool} token), "
            "ours does not; train with head.pooling = virtual for a run that PEFT can read"
        )


def _module(path: str, sites: Sites) -> str:
    """The module of the class with a head that a parameter belongs to, one step below the class or its backbone."""
    return path.removeprefix(sites.class_prefix).split(".")[0]
