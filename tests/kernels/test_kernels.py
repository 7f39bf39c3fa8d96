"""Kernels against what they replace: exactness, whole models, the file of choices, and what a step may cost."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from graftlm.checkpoint import load_base
from graftlm.kernels import Choices, add_low_rank, choice, frozen, products
from graftlm.kernels.linear import TOLERANCE, kernels
from graftlm.methods import MethodConfig, attach, parse
from graftlm.sites import Attached
from tiny import TABLED, batch_of, model, output, randomise_runs, real_of, sparing, texts

WEIGHT = torch.randn(48, 32, generator=torch.Generator().manual_seed(1))
OTHERS = kernels(WEIGHT)[1:]
pytestmark = pytest.mark.usefixtures("chosen")


def near(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted.double()).norm() <= tolerance * wanted.double().norm())


def test_there_are_kernels_for_the_processors_that_are_known() -> None:
    if torch.backends.mkldnn.is_available():
        assert OTHERS == ["onednn", "packed"]
    assert kernels(WEIGHT.double()) == ["torch"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kernel", ["torch", *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_layer_gives_the_products_and_the_gradient(kernel: str, dtype: torch.dtype, turned: bool) -> None:
    weight = (WEIGHT.T.contiguous().T if turned else WEIGHT).to(dtype)
    if kernel != "torch" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert kernel not in kernels(weight)
        pytest.skip(f"this processor has no {kernel} products in {dtype}")
    x, bias = torch.randn(3, 5, 32).to(dtype).requires_grad_(), torch.randn(48).to(dtype)
    gradient = torch.randn(3, 5, 48).to(dtype)
    wide = x.detach().double().requires_grad_()
    wanted = F.linear(wide, weight.double(), bias.double())
    found = frozen(weight, kernel)(x, bias)
    assert near(found, wanted, TOLERANCE[dtype])
    found.backward(gradient)
    wanted.backward(gradient.double())
    assert x.grad is not None
    assert wide.grad is not None
    assert near(x.grad, wide.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, "open", "numbers"])
def test_attention_by_products_is_attention(mask: str | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 8, generator=generator).to(dtype).transpose(1, 2) for length in (5, 7, 7))
    given: Tensor | None = None
    if mask == "open":
        given = torch.rand(2, 1, 5, 7, generator=generator) > 0.3
        given[..., 0] = True
    elif mask == "numbers":
        given = torch.randn(1, 3, 5, 7, generator=generator).to(dtype)
    own, theirs = ([x.clone().requires_grad_() for x in (q, k, v)] for _ in range(2))
    wide = [x.detach().double().requires_grad_() for x in theirs]
    kind = given if given is None or given.dtype == torch.bool else given.double()
    wanted = F.scaled_dot_product_attention(wide[0], wide[1], wide[2], attn_mask=kind, scale=0.3)
    found = products(own[0], own[1], own[2], given, 0.3)
    found.sum().backward()
    wanted.sum().backward()
    for one, other in [(found, wanted), *((a.grad, b.grad) for a, b in zip(own, wide, strict=True))]:
        assert one is not None
        assert other is not None
        assert near(one, other, 1e-5 if dtype == torch.float32 else 2e-2)


def test_a_low_rank_change_has_the_gradients_of_its_formula() -> None:
    shapes = [(2, 5, 4), (2, 5, 3), (2, 2, 3), (2, 4, 2)]
    own = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y, x, down, up: add_low_rank(y, x, down, up, scale), own)


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(2, 3, 5, 32, requires_grad=True)
    for found in (products(x, x, x, None, 0.3), *(frozen(WEIGHT, kernel)(x, None) for kernel in OTHERS)):
        (slope,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            slope.square().sum().backward()


NOISE = {"t5": 4e-5}  # whose scores are not scaled: its gradients in plain fp32 are as far from those in fp64


@pytest.mark.parametrize("family", sparing(TABLED))
def test_a_quick_base_gives_what_the_plain_one_gives(family: str) -> None:
    """Outputs and every run's gradients, with padding."""
    options = {"lora": {"sites": "all-linear", "rank": 3}, "prefix": {"length": 3}}
    attached = attach(model(family), {name: parse(name, own) for name, own in options.items()}).train()
    randomise_runs(attached)
    names = ["lora", "prefix", "lora", "prefix"]
    batch = batch_of(attached.base, texts(4))

    def passed() -> dict[str, Tensor]:
        with attached.route(names):
            out = output(attached(**batch))[real_of(batch)]
            out.pow(2).mean().backward()
        found = {"output": out.detach()}
        for run in options:
            for name, value in attached.parameters_of(run).items():
                if value.grad is not None:  # a pooler is read by nobody here
                    found[f"{run}/{name}"], value.grad = value.grad, None
        return found

    plain, layers = passed(), attached.quicken()
    quick = passed()
    assert set(layers.values()) == {"onednn"} if OTHERS else {"torch"}
    for name, value in plain.items():
        error = float((quick[name] - value).norm())
        assert error <= NOISE.get(family, 1e-5) * float(value.norm()) + 1e-6, name
    base = attached.detach()
    assert not any("forward" in vars(module) for module in base.modules())


def test_a_quick_base_under_autocast_is_the_plain_one() -> None:
    """A base that is trained in bf16: rotary positions leave queries and keys in fp32 beside values in bf16."""
    attached = attach(model("llama"), {"full": parse("full", {})}).train()
    batch, found = batch_of(attached.base, texts(2)), []
    for quick in (False, True):
        if quick:
            attached.quicken()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = output(attached(**batch))
        out.float().square().mean().backward()
        gradients = [value.grad for value in attached.parameters_of("full").values() if value.grad is not None]
        found.append([out.detach(), *(gradient.clone() for gradient in gradients)])
        attached.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_quick_layer_computes_with_the_weight_that_its_module_has() -> None:
    attached = attach(bert(), {"lora": METHODS["lora"]})
    attached.quicken()
    copied = copy.deepcopy(attached)
    own, theirs = (
        [module for module in each.base.modules() if "forward" in vars(module)] for each in (attached, copied)
    )
    assert len(own) == len(theirs) == (LAYERS * 6 if OTHERS else 0)
    for mine, other in zip(own, theirs, strict=True):
        x = torch.randn(2, mine.weight.shape[1])
        assert near(other(x), mine(x), 1e-5)
        other.weight.data.zero_()
        assert torch.equal(other(x), other.bias.expand(2, -1))
        assert not near(mine(x), other(x), 0.1)
        mine.weight = nn.Parameter(torch.zeros_like(mine.weight), requires_grad=False)
        assert torch.equal(mine(x), mine.bias.expand(2, -1))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("lora", {"sites": "all-linear"}, 0.999),
        ("lora", {"sites": "all-linear", "dora": True}, 0.999),
        ("unipelt", {"length": 5}, 0.99),  # an adapter's ReLU opens or closes on what the base's rounding changes
    ],
    ids=["lora", "dora", "unipelt"],
)
def test_bf16_gradients_point_where_those_in_fp32_do(name: str, options: dict[str, Any], least: float) -> None:
    found: list[dict[str, Tensor]] = []
    tweets = Path(__file__).parents[2] / "examples/data/tweets/train.jsonl"
    rows = [json.loads(line) for line in tweets.read_text(encoding="utf-8").splitlines()[:32]]
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base("minilm")
        words = base.tokenizer([row["text"] for row in rows], padding=True)
        batch = {name: torch.tensor(ids) for name, ids in words.items()}
        attached = attach(base.model.to(dtype), {"run": parse(name, options)}).train()  # type: ignore[arg-type]
        own, generator = attached.parameters_of("run"), torch.Generator().manual_seed(0)
        for part, value in own.items():
            if part.endswith(".up"):
                value.data.copy_(0.01 * torch.randn(value.shape, generator=generator))
        attached.quicken()
        real = batch["attention_mask"][..., None]
        states = (attached(**batch).last_hidden_state.float() * real).sum(1) / real.sum(1)
        head = torch.randn(states.shape[1], 3, generator=generator)
        F.cross_entropy(states @ head, torch.tensor([row["label"] for row in rows])).backward()
        found.append({part: value.grad for part, value in own.items() if value.grad is not None})
    wide, narrow = found
    assert wide.keys() == narrow.keys()
    for part, value in wide.items():
        assert float(F.cosine_similarity(value.flatten(), narrow[part].float().flatten(), dim=0)) >= least, part


def test_choices_are_measured_once_and_the_file_is_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cache/kernels.json"
    first = Choices(file)
    kernel = first.linear(WEIGHT)
    assert kernel in kernels(WEIGHT)
    ((machine, found),) = json.loads(file.read_text()).items()
    assert found == {"linear.float32.48×32": kernel}
    file.write_text(json.dumps({machine: {"linear.float32.48×32": "torch"}}))
    monkeypatch.setattr(choice, "_seconds", lambda calls: pytest.fail("measured again"))
    assert Choices(file).linear(WEIGHT) == "torch"


def test_what_a_run_was_computed_with_goes_before_the_file_and_never_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, case = tmp_path / "kernels.json", "linear.float32.48×32"
    Choices(file).linear(WEIGHT)
    (machine,) = json.loads(file.read_text())
    file.write_text(json.dumps({machine: {case: "torch"}}))
    monkeypatch.setattr(choice, "_seconds", lambda calls: dict.fromkeys(calls, 1.0))
    resumed = Choices(file)
    resumed.take({case: OTHERS[0], "attention.float32.8.16.read": "products"})
    resumed.precision(WEIGHT)  # a case that no run records
    assert resumed.linear(WEIGHT) == OTHERS[0] == resumed.asked[case]
    assert json.loads(file.read_text()) == {machine: {case: "torch", "precision.48×32": "bfloat16"}}
    resumed.take({})
    assert resumed.linear(WEIGHT) == "torch" == resumed.asked[case]


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 3}'])
def test_a_damaged_file_of_choices_is_made_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kernels.json"
    file.write_text(text)
    assert Choices(file).linear(WEIGHT) in kernels(WEIGHT)
    assert any(
        "linear.float32.48×32" in found for found in json.loads(file.read_text()).values() if isinstance(found, dict)
    )


# ---- what a step may cost ------------------------------------------------------------------------------------------

ROWS, TOKENS, WIDTH, LAYERS, INNER = 4, 32, 64, 3, 128
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": INNER}
METHODS: dict[str, MethodConfig] = {
    "lora": parse("lora", {"sites": ["attention.query", "attention.value"]}),
    "lora-all": parse("lora", {"sites": "all-linear"}),
    "bitfit": parse("bitfit", {}),
    "ia3": parse("ia3", {}),
    "prefix": parse("prefix", {"length": 4, "reparametrisation": "none"}),
    "head": parse("head", {}),
}


def bert() -> BertModel:
    return BertModel(BertConfig(vocab_size=50, **SHAPE), add_pooling_layer=False)


def step(attached: Attached | nn.Module, batch: dict[str, Tensor], head: nn.Parameter) -> None:
    hidden = attached(**batch).last_hidden_state
    (hidden[:, 0] @ head).pow(2).mean().backward()


def flops(name: str) -> tuple[FlopCounterMode, int]:
    """A training step's products, counted, and what it may have, as docs/performance.md says."""
    attached = attach(bert(), {name: METHODS[name]}).train()
    attached.quicken()
    batch = batch_of(attached.base, [[1 + index % 40 for index in range(TOKENS)]] * ROWS)
    head = nn.Parameter(torch.randn(WIDTH, 3))
    with FlopCounterMode(display=False) as counter:
        step(attached, batch, head)
    tokens = ROWS * TOKENS
    weights = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
    keys = TOKENS + (4 if name == "prefix" else 0)
    attention = LAYERS * 2 * 2 * ROWS * TOKENS * keys * WIDTH  # two products a pass
    own = sum(value.numel() for path, value in attached.parameters_of(name).items() if path.endswith((".down", ".up")))
    if name == "head":
        return counter, 2 * weights * tokens + attention + 3 * 2 * ROWS * WIDTH * 3
    return counter, 4 * weights * tokens + 6 * own * tokens + 3 * attention + 3 * 2 * ROWS * WIDTH * 3


@pytest.mark.parametrize("name", METHODS)
def test_a_step_has_no_more_products_than_a_frozen_base_needs(name: str) -> None:
    counter, most = flops(name)
    assert most / 2 < counter.get_total_flops() <= 1.01 * most


def test_no_product_goes_uncounted() -> None:
    """The packed products are counted as the plain ones are, forward and backward."""
    totals = []
    for quick in (False, True):
        attached = attach(bert(), {"lora": METHODS["lora-all"]}).train()
        if quick:
            attached.quicken()
        batch = batch_of(attached.base, [[1, 2, 3, 4]] * 2)
        with FlopCounterMode(display=False) as counter:
            step(attached, batch, nn.Parameter(torch.randn(WIDTH, 3)))
        totals.append(
            sum(count for op, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
        )
    plain, quick_total = totals
    # attention by products is counted among them; by torch's own kernel it is not
    assert quick_total - plain == LAYERS * 6 * 2 * 2 * 4 * 4 * WIDTH


def saved(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """The bytes that a forward pass keeps for the backward pass; weights, and one storage kept twice, count once."""
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(**batch).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["equal", "as they come"])
@pytest.mark.parametrize("tokens", [16, 64])
def test_a_layer_keeps_less_than_pefts_does(
    chosen: Choices, monkeypatch: pytest.MonkeyPatch, tokens: int, dropout: float
) -> None:
    """MiniLM's shape, LoRA on all linear layers; attention by torch's kernel, as for long texts."""
    from peft import LoraConfig, get_peft_model

    shape = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 1536}
    shape |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    made = [BertModel(BertConfig(vocab_size=50, **shape), add_pooling_layer=False) for _ in range(2)]
    batch = {"input_ids": torch.randint(1, 50, (8, tokens)), "attention_mask": torch.ones(8, tokens, dtype=torch.long)}
    peft = get_peft_model(made[0], LoraConfig(r=8, target_modules="all-linear"))  # type: ignore[arg-type]
    attached = attach(made[1], {"lora": METHODS["lora-all"]}).train()
    attached.quicken()
    monkeypatch.setattr(chosen, "attention", lambda query, key: "torch")
    assert saved(attached, batch) <= 0.7 * saved(peft.train(), batch)
