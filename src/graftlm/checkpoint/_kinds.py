"""Which of Transformers' classes loads a model, and what of it is refused: other inputs, missing or unfitting parts."""

from collections.abc import Collection
from typing import Any

import torch

from graftlm.core.errors import UserError

UNFORESEEING = {
    "xlnet": "whose words see those that follow them",
    "bert-generation": "which without is_decoder = true in its config sees the words that follow",
    "prophetnet": "which foresees several words at once",
}


def class_of(name: str, config: Any, head: str | None) -> Any:
    """The class that loads a model with a head of its own; a model that cannot have one is refused."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if head is None:
        return transformers.AutoModel
    kind = str(config.model_type)
    both = bool(getattr(config, "is_encoder_decoder", False))
    if head == "mlm" or (head == "own" and kind in _encoders() and not both):
        if kind in _encoders() and not both:
            return transformers.AutoModelForMaskedLM
        raise UserError(f'the model "{name}" is of type {kind}, which guesses no masked words; an encoder does')
    if kind in UNFORESEEING and not (kind == "bert-generation" and config.is_decoder):
        raise UserError(f'the model "{name}" is of type {kind}, {UNFORESEEING[kind]}; gpt2, llama or t5 would work')
    if both and kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForSeq2SeqLM
    if not both and kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in _encoders():
        return transformers.AutoModelForCausalLM
    raise UserError(
        f'the model "{name}" is of type {kind}, which writes no texts; a decoder, as gpt2 or llama, or an '
        "encoder-decoder, as t5, would work"
    )


def _encoders() -> Collection[str]:
    from transformers.models.auto import modeling_auto as auto

    return auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def check_kind(name: str, config: Any) -> None:
    """Refuses a model that is not for texts."""
    from transformers import AutoModel

    if type(config) not in AutoModel._model_mapping:
        raise UserError(f'the model "{name}" is of type {config.model_type}, which Transformers has no plain model for')
    mapped: Any = AutoModel._model_mapping[type(config)]
    kind = mapped[0] if isinstance(mapped, tuple) else mapped
    if kind.main_input_name != "input_ids":
        raise UserError(
            f'the model "{name}" is of type {config.model_type}, which takes {kind.main_input_name} and no texts'
        )


def check_start(name: str, config: Any) -> None:
    """Refuses an encoder-decoder whose config does not say which token its decoder begins with."""
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        raise UserError(
            f'the config of "{name}" has no decoder_start_token_id, the token that its decoder begins with; '
            "one in config.json would work"
        )


def check_shift(name: str, model: Any, tokenizer: Any) -> None:
    """Refuses an encoder-decoder with its LM head whose own loss has the decoder begin with another token."""
    config = model.config
    end = config.eos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None or not config.is_encoder_decoder or not isinstance(end, int):
        return
    first = int(shift(torch.tensor([[end]]))[0, 0])
    if first != config.decoder_start_token_id:
        raise UserError(
            f'the model "{name}" is of type {config.model_type}, whose decoder begins with what a text ends with, here '
            f"token {first}, and its config has decoder_start_token_id = {config.decoder_start_token_id}; a model that "
            "has the same there, as mBART-50, would work"
        )


def check_embedding(name: str, model: Any) -> None:
    """Refuses a model that takes texts beside something else, which has no one word embedding."""
    try:
        model.get_input_embeddings()
    except NotImplementedError:
        raise UserError(
            f'the model "{name}" is a {type(model).__name__}, which takes more than texts; a model of texts '
            "alone would work"
        ) from None


def unfilled(model: Any, missing: Collection[str]) -> frozenset[str]:
    """The missing parameters but for sinusoids, which a class computes itself and Marian's checkpoints leave out."""
    owners = {key: type(model.get_submodule(key.rpartition(".")[0])).__name__ for key in missing}
    return frozenset(key for key, owner in owners.items() if not owner.endswith("SinusoidalPositionalEmbedding"))


def check_weights(name: str, kind: str, missing: frozenset[str], mismatched: Collection[Any]) -> None:
    """Refuses weights of other shapes than the config's, and a model that lacks some; a new pooler may be missing."""
    if mismatched:
        key, found, needed = min((str(key), tuple(found), tuple(needed)) for key, found, needed in mismatched)
        raise UserError(
            f'the weights of "{name}" do not fit its config: {key} has shape {found}, and {kind} needs {needed}'
        )
    broken = sorted(key for key in missing if "pooler" not in key)
    if broken:
        raise UserError(f'the weights of "{name}" lack {len(broken)} tensors that {kind} has (first: {broken[0]})')
