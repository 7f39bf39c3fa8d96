"""Steps of models that write: what they may cost, and a tied LM head."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from graftlm.core.settings import HeadConfig
from graftlm.kernels.linear import kernels
from graftlm.methods import MethodConfig, attach, parse
from graftlm.sites import Attached
from graftlm.tasks import LanguageHead
from tiny import batch_of, model, randomise_runs, texts

pytestmark = pytest.mark.usefixtures("chosen")
ROWS, TOKENS, WIDTH, LAYERS, INNER, VOCABULARY = 4, 32, 48, 3, 80, 500
SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": INNER,
    "tie_word_embeddings": True,
}
LORA = parse("lora", {"sites": "all-linear", "rank": 4})


def writer(method: MethodConfig) -> Attached:
    return attach(model("llama", lm=True, **SHAPE), {"run": method}).train()


def step_of(attached: Attached, read: int) -> Callable[[], None]:
    """A training step whose last `read` places of each row are learned from."""
    head = LanguageHead(attached, HeadConfig())
    batch = batch_of(attached.base, [[3 + index for index in range(TOKENS)]] * ROWS)
    places = torch.arange(TOKENS - read, TOKENS).expand(ROWS, -1)
    goals = torch.full((ROWS, read), 7)

    def step() -> None:
        head.losses(places, goals, lambda: attached(**batch).logits).sum().backward()

    step()  # the first also tries out what the family does behind its LM head
    return step


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("read", [1, 10, TOKENS])
def test_a_step_has_the_lm_heads_products_at_the_places_that_are_read_alone(read: int, quick: bool) -> None:
    attached = writer(LORA)
    if quick:
        attached.quicken()
    step = step_of(attached, read)
    with FlopCounterMode(display=False) as counter:
        step()
    tokens = ROWS * TOKENS
    weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    own = sum(value.numel() for value in attached.parameters_of("run").values())
    attention = LAYERS * 3 * 2 * 2 * tokens * TOKENS * WIDTH
    most = 4 * weights * tokens + 6 * own * tokens + attention + 2 * 2 * ROWS * read * WIDTH * VOCABULARY
    counted = sum(counter.get_flop_counts()["Global"].values())
    assert (0.95 if quick else 0.7) * most < counted <= 1.01 * most


class Made(TorchDispatchMode):
    """The shapes of all matrices that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = set[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.shapes |= {tuple(each.shape) for each in tree_leaves(found) if isinstance(each, Tensor)}
        return found


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit", "adapter", "prefix", "prompt-tuning", "full"])
def test_no_product_is_a_frozen_weights_gradient(method: str, quick: bool) -> None:
    """Products of that kind have the weight's shape, which nothing else in a step has."""
    family = {"bitfit": "gpt2"}.get(method, "llama")
    shape = {"n_embd": WIDTH, "n_inner": INNER, "vocab_size": VOCABULARY} if family == "gpt2" else SHAPE
    options = {"sites": "all-linear"} if method == "lora" else {}
    attached = attach(model(family, lm=True, **shape), {"run": parse(method, options)}).train()
    if quick:
        attached.quicken()
    step = step_of(attached, 10)
    with Made() as made:
        step()
    weights = {tuple(each.shape) for each in attached.base.parameters() if each.ndim == 2}
    assert bool(made.shapes & (weights | {shape[::-1] for shape in weights})) == (method == "full")


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_a_packed_lm_head_that_is_tied_gives_the_same_logits_and_gradients(family: str) -> None:
    found = []
    for pack in (False, True):
        base = model(family, lm=True, tie_word_embeddings=True)
        attached = attach(base, {"run": LORA, "words": parse("lora", {"sites": ["embedding"]})}).train()
        randomise_runs(attached)
        if pack:
            head = attached.quicken(pack=True)["lm_head"]
            assert head == kernels(base.lm_head.weight)[-1]
        assert base.lm_head.weight is base.get_input_embeddings().weight
        attached.route(["run", "words", "run", "words"])
        logits = attached(**batch_of(base, texts(4))).logits
        logits.pow(2).mean().backward()
        own = {name: value.grad for run in attached.runs for name, value in attached.parameters_of(run).items()}
        found.append({"logits": logits.detach(), **own})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)
