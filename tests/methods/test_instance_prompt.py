"""A prompt that a text makes for itself: from which tokens, for which row, and when the text grows."""

import pytest
import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods import attach
from graftlm.methods.instance_prompt import InstancePromptConfig, through_bottleneck
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.sites import Attached
from tiny import CAUSAL, ENCODER_DECODER, LEFT_PADDED, batch_of, model, outputs, padded, randomise_runs, texts, virtual

TEXTS = texts(4, high=9)
CONFIG = InstancePromptConfig(length=3, bottleneck=5)


def made_from(attached: Attached, text: list[int]) -> Tensor:
    """The prompt (L d) that a text makes."""
    p = {name.removeprefix("prompt."): value[None] for name, value in attached.kept("a").items()}
    weight = attached.sites.embedding().weight
    return through_bottleneck(weight[text].mean(0)[None, None], p).reshape(CONFIG.length, -1)


@pytest.mark.parametrize(("family", "side"), LEFT_PADDED)
def test_a_row_has_the_prompt_that_its_texts_mean_makes_whatever_the_padding_and_the_rows_beside_it(
    family: str, side: str
) -> None:
    base = model(family, dtype=torch.float64)
    attached = attach(base, {"a": CONFIG})
    randomise_runs(attached)
    with torch.no_grad():
        found = outputs(attached, ["a"] * len(TEXTS), TEXTS, side, to=20)
        prompts = [made_from(attached, text) for text in TEXTS]
        attached.detach()
        fixed = attach(base, {"a": PromptTuningConfig(length=CONFIG.length)})
        for text, prompt, row in zip(TEXTS, prompts, found, strict=True):
            fixed.load("a", {"prompt.values": prompt})
            assert torch.allclose(row, outputs(fixed, ["a"], [text])[0], atol=1e-9, rtol=0)
    assert not torch.allclose(prompts[0], prompts[1], atol=1e-3)


def generated(attached: Attached, rows: list[list[int]], **options: object) -> list[list[int]]:
    batch = padded([virtual(attached, "a") + row for row in rows], "left")
    with attached.route("a"):
        out = attached.base.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=99, **options)
    return out[:, -4:].tolist()


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_a_causal_model_makes_the_prompt_anew_for_each_longer_text_and_refuses_a_cache(family: str) -> None:
    attached = attach(model(family, lm=True), {"a": CONFIG})
    randomise_runs(attached, std=1.0)
    rows = [[5, 9, 14, 33, 8], [41, 7]]
    reason = 'adapter "a" makes its prompt from the whole text, which a cache does not hold; generate with use_cache'
    with pytest.raises(UserError, match=reason):
        generated(attached, rows, use_cache=True)
    for row, new in zip(rows, generated(attached, rows, use_cache=False), strict=True):
        text = list(row)
        for token in new:
            assert token == int(outputs(attached, ["a"], [text])[0][-1].argmax())
            text.append(token)


@pytest.mark.parametrize("family", ENCODER_DECODER)
@torch.no_grad()
def test_an_encoder_decoder_generates_with_a_cache_what_it_generates_without(family: str) -> None:
    attached = attach(model(family, lm=True), {"a": CONFIG})
    randomise_runs(attached, std=1.0)
    rows = [[5, 9, 14, 33, 8], [41, 7]]
    batch = padded([virtual(attached, "a") + row for row in rows])
    found = attached.base.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=99)
    again = attached.base.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=99, use_cache=False)
    assert torch.equal(found, again)
    start = [attached.base.config.decoder_start_token_id]
    for row, new in zip(rows, found.tolist(), strict=True):
        decoded = list(start)
        for token in new[1:-1]:  # the last is forced by BART's own settings
            own = batch_of(attached.base, [virtual(attached, "a") + row])
            own |= {"decoder_input_ids": torch.tensor([decoded]), "decoder_attention_mask": torch.ones(1, len(decoded))}
            assert token == int(attached(**own).logits[0, -1].argmax())
            decoded.append(token)
