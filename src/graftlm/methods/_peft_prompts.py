"""Prompts and prefixes in PEFT's format: one tensor, `prompt_embeddings`, with no prefix to its name.

PROMPT_TUNING and P_TUNING keep (L d), what stands before the text, whatever made it. PREFIX_TUNING keeps
(L, layers · 2 · heads · width), in each layer the keys before the values: our own order. Under grouped-query
attention `token_dim` and the heads are those of the keys. Real tokens start at position L. Virtual tokens of PEFT's
stand behind the scale that some families (Gemma, BART) give what they look up, ours before it. For SEQ_2_SEQ_LM PEFT
keeps 2 L rows by default, and puts the first L in front of the encoder's text; nothing reads the others.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods._method import MethodConfig, acts, parse
from graftlm.methods._peft import PROMPTED, NoWordsError, PeftForm, PeftWords, Theirs, heed
from graftlm.sites import Past, Sites, Tensors, Tokens

STORED = "prompt_embeddings"
SHAPE = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
READ = (*SHAPE, "modules_to_save")
HARMLESS = {
    "prompt_tuning_init": "RANDOM",
    "prompt_tuning_init_text": None,
    "tokenizer_name_or_path": None,
    "tokenizer_kwargs": None,
    "encoder_reparameterization_type": "MLP",
    "encoder_hidden_size": None,
    "encoder_num_layers": 2,
    "encoder_dropout": 0,
    "prefix_projection": False,
    "init_weights": True,
}


def prompt_form(config: Any, sites: Sites, kind: str = "PROMPT_TUNING") -> PeftForm:
    """Virtual tokens, (L d)."""
    _shifted(config)
    (act,) = acts(config, sites)
    assert isinstance(act, Tokens)
    length, width = act.params["values"].shape
    heads = getattr(sites.config.get_text_config(), "num_attention_heads", None)
    if heads is None:
        raise NoWordsError(
            f"PEFT takes a prompt only where the model's config has num_attention_heads; that of "
            f'"{sites.family}" has none; lora can be said'
        )
    return _form(kind, f"{act.place}.values", (length, width, 1, int(heads), sites.depth), sites.embedding_scale)


def prefix_form(config: Any, sites: Sites) -> PeftForm:
    """Keys and values, (L, layers · 2 · heads · width)."""
    if sites.encoder_decoder:
        raise NoWordsError(
            f"PEFT's {config.method} does not reach an encoder-decoder's encoder, cross attention and decoder as ours "
            "does; lora does"
        )
    _shifted(config)
    (act,) = acts(config, sites)
    assert isinstance(act, Past)
    one, layers = act.attentions[0], len(act.attentions)
    shape = (act.length, one.heads * one.head_width, 1, one.heads, layers)
    return replace(_form("PREFIX_TUNING", f"{act.place}.values", shape), notes=_leaving(act.length, sites))


def _leaving(length: int, sites: Sites) -> tuple[str, ...]:
    """A line where attention slides: PEFT's prefix is in the cache and leaves the window."""
    text = sites.config.get_text_config()
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return ()
    return (
        f"{sites.family} looks back over {window} tokens at most: in PEFT a text's first {max(0, window - length)} see "
        f"the whole prefix of {length}, here every token does, so the results of longer texts differ",
    )


def _shifted(config: Any) -> None:
    if not config.position_shift:
        raise NoWordsError(
            "PEFT lets the text's positions start after a prompt or prefix; train with method.position_shift = true"
        )


def _form(kind: str, ours: str, shape: tuple[int, ...], scale: float = 1.0) -> PeftForm:
    def write(tensors: Tensors) -> dict[str, Tensor]:
        return {STORED: tensors[ours] * scale}

    def read(tensors: Tensors) -> dict[str, Tensor]:
        rest = {name: tensor for name, tensor in tensors.items() if name != STORED}
        return rest | ({ours: tensors[STORED] / scale} if STORED in tensors else {})

    body = {"peft_type": kind, "inference_mode": True} | dict(zip(SHAPE, shape, strict=True))
    return PeftForm(body, write, read, PROMPTED)


def ptuning_form(config: Any, sites: Sites) -> PeftForm:
    """The same; PEFT stores what P-Tuning's network makes."""
    return prompt_form(config, sites, "P_TUNING")


def read_prompt(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    return _read("prompt-tuning", {"init": "uniform"}, body, tensors, sites)


def read_ptuning(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    return _read("ptuning", {"encoder": "none"}, body, tensors, sites)


def read_prefix(body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    return _read("prefix", {"reparametrisation": "none"}, body, tensors, sites)


def _read(method: str, options: dict[str, Any], body: Mapping[str, Any], tensors: Tensors, sites: Sites) -> Theirs:
    notes = heed(body, READ, HARMLESS, {})
    stacks = body.get("num_transformer_submodules") or (2 if body.get("task_type") == "SEQ_2_SEQ_LM" else 1)
    if method == "prefix" and (sites.encoder_decoder or stacks != 1):
        raise UserError(
            f"a {body['peft_type']} adapter for an encoder-decoder cannot be read: PEFT puts it where no definition "
            f"of {method} does; train it anew with --method {method}"
        )
    if stacks > (2 if sites.encoder_decoder else 1):
        raise UserError(f"num_transformer_submodules = {stacks} in adapter_config.json; this {sites.family} has fewer")
    if STORED not in tensors:
        raise UserError(
            f"the adapter's file holds no {STORED} (it holds {', '.join(sorted(tensors)[:3]) or 'nothing'})"
        )
    values = tensors[STORED]
    if values.shape[0] % stacks:
        raise UserError(f"{STORED} has {values.shape[0]} rows, which are not {stacks} times any number of tokens")
    values = values[: values.shape[0] // stacks]
    config: MethodConfig = parse(method, {"length": int(values.shape[0])} | options)
    if body.get("num_virtual_tokens") not in (None, values.shape[0]):
        raise UserError(f"num_virtual_tokens = {body['num_virtual_tokens']}, but {STORED} has {values.shape[0]} rows")
    (act,) = acts(config, sites)
    assert isinstance(act, (Past, Tokens))
    wanted = act.params["values"].shape
    if tuple(values.shape) != wanted:
        raise UserError(f"{STORED} has shape {tuple(values.shape)}; this {sites.family} model takes {wanted}")
    if isinstance(act, Past) and body.get("num_attention_heads") not in (None, act.attentions[0].heads):
        found = body["num_attention_heads"]
        raise UserError(f"num_attention_heads = {found}; this {sites.family} model has {act.attentions[0].heads}")
    if isinstance(act, Past):
        notes += _leaving(act.length, sites)
    else:
        values = values / sites.embedding_scale
    rest = {name.removeprefix(PROMPTED): value for name, value in tensors.items() if name != STORED}
    return Theirs(config, {f"{act.place}.values": values}, rest, notes)


PROMPT_WORDS = PeftWords(prompt_form, read_prompt)
PTUNING_WORDS = PeftWords(ptuning_form, read_ptuning)
PREFIX_WORDS = PeftWords(prefix_form, read_prefix)
