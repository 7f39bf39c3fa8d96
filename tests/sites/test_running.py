"""How an attached model runs: checkpointing, lower precision, generation, the graph, and dropout."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from graftlm.core.errors import UserError
from graftlm.methods import MethodConfig, attach
from graftlm.methods.adapter import AdapterConfig
from graftlm.methods.bitfit import BitfitConfig
from graftlm.methods.ia3 import Ia3Config
from graftlm.methods.instance_prompt import InstancePromptConfig
from graftlm.methods.lora import LoraConfig
from graftlm.methods.mam import MamConfig
from graftlm.methods.prefix import PrefixConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.methods.ptuning import PtuningConfig
from graftlm.methods.ptuning_v2 import PtuningV2Config
from graftlm.methods.union import UnionConfig
from graftlm.methods.unipelt import UnipeltConfig
from graftlm.sites import Attached, Sites, keyed_dropout, row_keys
from tiny import (
    CAUSAL,
    CONFIGS,
    ENCODER_DECODER,
    HOULSBY,
    LORA,
    POSITIONS,
    PREFIX,
    TABLED,
    VOCABULARY,
    batch_of,
    model,
    output,
    outputs,
    padded,
    randomise_runs,
    real_of,
    texts,
    virtual,
)

RUNS: Mapping[str, MethodConfig] = {
    "lora": LoraConfig(rank=2, dropout=0.2),
    "all": LoraConfig(rank=3, sites="all-linear"),
    "dora": LoraConfig(rank=2, dora=True, dropout=0.2),
    "pissa": LoraConfig(rank=2, alpha=2, init="pissa"),
    "embedding": LoraConfig(rank=2, alpha=1, sites=("embedding",)),
    "ia3": Ia3Config(),
    "houlsby": AdapterConfig(variant="houlsby", bottleneck=3, dropout=0.3),
    "pfeiffer": AdapterConfig(bottleneck=3),
    "parallel": AdapterConfig(variant="parallel", bottleneck=3),
    "prefix": PrefixConfig(length=3, hidden=5, dropout=0.2),
    "prompt": PromptTuningConfig(length=3),
    "ptuning-v2": PtuningV2Config(length=2),
    "ptuning": PtuningConfig(length=2),
    "instance-prompt": InstancePromptConfig(length=2, bottleneck=4),
    "unipelt": UnipeltConfig(bottleneck=3, length=2, hidden=4, rank=2),
    "gated": UnionConfig(parts=(LORA, "ia3", HOULSBY), gates=True),
}
ROWS = [run for run in RUNS for _ in range(2)]
TEXTS = texts(len(ROWS))


def gradients(attached: Attached) -> dict[str, Tensor]:
    keys = row_keys(1, 2, torch.arange(len(ROWS)))
    with attached.route(ROWS, keys):
        found = outputs(attached, ROWS, TEXTS, keys=keys)
        sum(row.float().pow(2).mean() for row in found).backward()
    named = {(run, name): value for run in attached.runs for name, value in attached.parameters_of(run).items()}
    return {"/".join(key): value.grad.clone() for key, value in named.items() if value.grad is not None}


@pytest.mark.parametrize("family", [family for family in TABLED if family != "albert"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str) -> None:
    found = []
    for checkpointed in (False, True):
        base = model(family)
        if checkpointed:
            base.activation_checkpointing_enable()
        attached = attach(base, RUNS).train()
        randomise_runs(attached)
        found.append(gradients(attached))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=1e-6, rtol=1e-5), name


@pytest.mark.parametrize("family", TABLED)
@pytest.mark.parametrize("how", ["autocast", "base"])
def test_bf16_trains_fp32_tensors_and_stays_near_fp32(family: str, how: str) -> None:
    exact = attach(model(family), RUNS)
    randomise_runs(exact, std=0.1)
    base = model(family, dtype=torch.bfloat16 if how == "base" else torch.float32)
    attached = attach(base, RUNS)
    randomise_runs(attached, std=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = outputs(attached, ROWS, TEXTS)
    assert all(value.dtype == torch.float32 for run in RUNS for value in attached.parameters_of(run).values())
    for row, wanted in zip(found, outputs(exact, ROWS, TEXTS), strict=True):
        assert (row.float() - wanted).norm() < 0.05 * wanted.norm()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        assert all(value.isfinite().all() for value in gradients(attached.train()).values())


GENERATING: Mapping[str, MethodConfig] = {
    "lora": LoraConfig(rank=2),
    "dora": LoraConfig(rank=2, dora=True),
    "embedding": LoraConfig(rank=2, alpha=1, sites=("embedding",)),
    "ia3": Ia3Config(),
    "prefix": PrefixConfig(length=3, reparametrisation="none"),
    "unshifted": PrefixConfig(length=4, reparametrisation="none", position_shift=False),
    "prompt": PromptTuningConfig(length=2),
    "bare": PromptTuningConfig(length=3, position_shift=False),
    "ptuning-v2": PtuningV2Config(length=2),
    "ptuning": PtuningConfig(length=3),
    "mam": MamConfig(length=2, hidden=4, bottleneck=3),
    "union": UnionConfig(parts=("ia3", LORA, {"name": "prompt-tuning", "length": 2}, PREFIX)),
}
GATED = UnipeltConfig(bottleneck=3, length=2, hidden=4, rank=2)
NEW = 5


def generating(family: str) -> Attached:
    relative = ("bare",) if family.startswith(("t5", "mt5")) else ()  # positions that nothing can move
    runs = {run: config for run, config in {**GENERATING, "gated": GATED}.items() if run not in relative}
    attached = attach(model(family, lm=True), runs)
    randomise_runs(attached, std=1.0)
    return attached


def log_odds(attached: Attached, run: str | None, text: list[int], new: list[int]) -> Tensor:
    """What one row, alone, without padding and without a cache, gives for the next token."""
    if not attached.sites.encoder_decoder:
        return outputs(attached, [run], [text + new])[0][-1].log_softmax(-1)
    start = attached.sites.config.decoder_start_token_id
    ids, given = torch.tensor([virtual(attached, run) + text]), torch.tensor([[start, *new]])
    with attached.route([run]):
        return attached(input_ids=ids, decoder_input_ids=given).logits[0, -1].log_softmax(-1)


def greedily(attached: Attached, run: str | None, text: list[int]) -> list[int]:
    new: list[int] = []
    for _ in range(NEW):
        new.append(int(log_odds(attached, run, text, new).argmax()))
    return new


def by_beams(attached: Attached, run: str | None, text: list[int], beams: int) -> list[int]:
    """Beam search that no token ends."""
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(NEW):
        grown = [
            (score + float(odds), [*new, token])
            for score, new in kept
            for token, odds in enumerate(log_odds(attached, run, text, new))
        ]
        kept = sorted(grown, key=lambda item: -item[0])[:beams]
    return kept[0][1]


PAIRS = [[run, run] for run in GENERATING] + [["prompt", "prefix"], ["lora", None]]
GENERATED = [
    (family, names)
    for family in (*CAUSAL, *ENCODER_DECODER)
    for names in PAIRS
    if names != ["bare", "bare"] or family not in ("t5", "t5-gated", "mt5")
]


def generated(
    family: str, names: list[str | None], beams: int, **options: object
) -> tuple[Attached, list[list[int]], list[list[int]]]:
    """An attached model, two texts, and what `generate()` adds to each."""
    attached = generating(family)
    rows = [[5, 9, 14, 33, 8], [41, 7]]
    side = "right" if family in ENCODER_DECODER else "left"
    batch = padded([virtual(attached, name) + row for name, row in zip(names, rows, strict=True)], side)
    with attached.route(names):
        found = attached.base.generate(
            **batch, max_new_tokens=NEW, do_sample=False, num_beams=beams, eos_token_id=VOCABULARY + 99, **options
        )[:, -NEW:].tolist()
    return attached, rows, found


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("family", "names"), GENERATED)
@torch.no_grad()
def test_generate_gives_what_forward_passes_without_a_cache_give(
    family: str, names: list[str | None], beams: int
) -> None:
    attached, rows, found = generated(family, names, beams)
    for name, row, new in zip(names, rows, found, strict=True):
        wanted = greedily(attached, name, row) if beams == 1 else by_beams(attached, name, row, beams)
        assert new == wanted


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
@torch.no_grad()
def test_generate_gives_the_same_without_a_cache(family: str) -> None:
    for names in (["prompt", "prefix"], ["lora", None]):
        assert generated(family, names, 1)[2] == generated(family, names, 1, use_cache=False)[2]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_prompt_beside_which_positions_begin_anew_is_no_packed_text_of_its_own(family: str) -> None:
    attached, row = generating(family), [5, 9, 14, 33, 8]
    ids = torch.tensor([virtual(attached, "bare") + row])
    with attached.route(["bare"]):  # `generate` drops a mask without padding and gives positions
        found = attached.base.generate(
            ids, max_new_tokens=NEW, do_sample=False, eos_token_id=VOCABULARY + 99, use_cache=False
        )[0, -NEW:].tolist()
    assert found == greedily(attached, "bare", row)


@pytest.mark.parametrize("names", [["prefix"], ["unshifted"], ["bare"], ["prefix", None], [None, "prefix"]])
@torch.no_grad()
def test_a_cache_is_dropped_where_shifted_positions_change_to_the_long_factors_of_their_rope(
    names: list[str | None],
) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0, 3.0]}
    limits = {"original_max_position_embeddings": 12}
    base = model("phi3", lm=True, rope_parameters=rope | {"rope_theta": 100.0} | limits, **limits)
    attached = attach(base, {run: GENERATING[run] for run in ("prefix", "unshifted", "bare")})
    randomise_runs(attached, std=1.0)
    for seed in range(6):
        rows = texts(len(names), seed=seed, low=6, high=6)
        batch = padded([virtual(attached, name) + row for name, row in zip(names, rows, strict=True)], "left")
        with attached.route(names):
            cached, whole = (
                attached.base.generate(
                    **batch, max_new_tokens=10, do_sample=False, eos_token_id=VOCABULARY + 99, use_cache=use
                )
                for use in (True, False)
            )
        assert torch.equal(cached, whole)
    attached.detach()
    assert "prepare_inputs_for_generation" not in vars(base)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("run", ["prefix", "prompt", None])
@torch.no_grad()
def test_a_static_cache_with_room_left_gives_what_a_growing_one_gives(family: str, run: str | None) -> None:
    attached = generating(family)
    row = [5, 9, 14, 33, 8]
    with attached.route([run]):
        found = attached.base.generate(
            torch.tensor([virtual(attached, run) + row]),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=VOCABULARY + 99,
            cache_implementation="static",
        )[0, -NEW:].tolist()
    assert found == greedily(attached, run, row)


@torch.no_grad()
def test_layers_that_slide_and_layers_that_do_not_may_have_a_mask_each() -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
    attached = attach(model("qwen2", lm=True, **sliding), {"prefix": GENERATING["prefix"]})
    randomise_runs(attached, std=1.0)
    found = attached.base.generate(
        **padded([[5, 9, 14, 33, 8], [41, 7]], "left"),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=VOCABULARY + 99,
        cache_implementation="static",
    )[:, -NEW:].tolist()
    assert found == [greedily(attached, "prefix", row) for row in ([5, 9, 14, 33, 8], [41, 7])]


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
@torch.no_grad()
def test_gates_generate_without_a_cache_and_refuse_one_by_name(family: str) -> None:
    attached, rows, found = generated(family, ["gated", "lora"], 1, use_cache=False)
    for name, row, new in zip(["gated", "lora"], rows, found, strict=True):
        assert new == greedily(attached, name, row)
    with pytest.raises(UserError, match='adapter "gated" gates its parts by the whole text, which a cache does not'):
        generated(family, ["gated", "lora"], 1)


@pytest.mark.parametrize("family", [family for family in TABLED if family != "albert"])
def test_there_is_no_graph_below_the_lowest_trainable_site(family: str) -> None:
    sites = Sites(model(family))
    top = max(site.layer or 0 for site in sites.with_roles(["attention.query"]))
    names = [site.module for site in sites.with_roles(["attention.query"]) if site.layer == top]
    attached = attach(sites.model, {"a": LoraConfig(sites=tuple(names[-1:]))}).train()
    inputs: list[Tensor] = []
    blocks = [attached.base.get_submodule(path) for path in attached.sites.blocks]
    for block in blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    out = attached(**batch_of(attached.base, texts(2))).last_hidden_state
    assert len(inputs) == len(blocks)
    assert not any(x.requires_grad for x in inputs)
    assert out.requires_grad


@pytest.mark.parametrize("family", TABLED)
def test_no_route_to_a_bank_leaves_no_graph(family: str) -> None:
    attached = attach(model(family), RUNS).train()
    with attached.disabled():
        assert not attached(**batch_of(attached.base, texts(2))).last_hidden_state.requires_grad


@pytest.mark.parametrize("family", TABLED)
@pytest.mark.parametrize("run", ["lora", "dora", "houlsby", "prefix"])
def test_a_rows_dropout_depends_on_neither_neighbours_nor_padding(family: str, run: str) -> None:
    attached = attach(model(family), RUNS).train()
    randomise_runs(attached)
    key = row_keys(3, 4, torch.tensor([7]))
    text = TEXTS[0]
    others = row_keys(3, 4, torch.arange(4))
    with torch.no_grad():
        alone = outputs(attached, [run], [text], keys=key)[0]
        again = outputs(attached, [run], [text], keys=row_keys(3, 5, torch.tensor([7])))[0]
        for side in ("left", "right") if family != "bart" else ("right",):  # plain BART fails on the left too
            names = ["prompt", None, run, run, "prefix"]
            keys = torch.cat([others[:2], key, others[2:]])
            among = outputs(attached, names, [*TEXTS[1:3], text, *TEXTS[3:5]], side, keys, to=15)[2]
            assert torch.allclose(among, alone, atol=1e-5)
    assert not torch.allclose(alone, again, atol=1e-3)


def test_eval_mode_has_no_dropout() -> None:
    attached = attach(model("bert"), RUNS).train()
    randomise_runs(attached)
    fresh = attach(model("bert"), RUNS)
    randomise_runs(fresh)
    with torch.no_grad():
        pairs = zip(outputs(attached.eval(), ROWS, TEXTS), outputs(fresh, ROWS, TEXTS), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("family", CONFIGS)
def test_base_dropout_drops_what_the_family_drops_in_training(family: str) -> None:
    base = model(family)
    batch = batch_of(base, TEXTS)

    def seeded() -> Tensor:
        torch.manual_seed(0)
        return output(base(**batch))[real_of(batch)]

    still = seeded()
    base.train()
    wanted = seeded()
    attached = attach(base.eval(), {"run": LoraConfig(rank=2)})
    attached.base_dropout(True)
    attached.train()
    assert torch.allclose(seeded(), wanted, atol=1e-4)
    attached.eval()
    assert torch.allclose(seeded(), still, atol=1e-4)


def test_base_dropout_leaves_no_layer_out() -> None:
    base = model("bart", dropout=0.0, encoder_layerdrop=1.0, decoder_layerdrop=1.0)
    batch = batch_of(base, TEXTS)
    wanted = output(base(**batch))
    attached = attach(base, {"run": LoraConfig(rank=2)})
    attached.base_dropout(True)
    assert torch.equal(output(attached.train()(**batch)), wanted)
    attached.detach()
    assert base.encoder.layerdrop == 1.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_keyed_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    h = torch.ones(64, 32, 128)
    keys = row_keys(0, 1, torch.arange(64))
    found = keyed_dropout(h, keys, torch.arange(32).expand(64, -1), 5, torch.full((64,), rate))
    assert float((found == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    for dim in (0, 1, 2):  # no example, token or feature is dropped more than others
        rates = (found == 0).float().transpose(0, dim).flatten(1).mean(1)
        assert float((rates - rate).abs().max()) < 0.05


def test_masks_of_different_seeds_steps_sites_and_examples_are_independent() -> None:
    positions, rate = torch.arange(16)[None], torch.tensor([0.5])
    cases = [(seed, step, example, site) for seed in (0, 1) for step in (0, 1) for example in (0, 1) for site in (3, 4)]
    masks = [
        keyed_dropout(torch.ones(1, 16, 256), row_keys(seed, step, torch.tensor([example])), positions, site, rate) == 0
        for seed, step, example, site in cases
    ]
    for index, one in enumerate(masks):
        for other in masks[:index]:
            assert float((one == other).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_bitfit_in_bf16_adds_fp32_changes() -> None:
    attached = attach(model("bert", dtype=torch.bfloat16), {"a": BitfitConfig()})
    attached(**batch_of(attached.base, TEXTS)).last_hidden_state.float().pow(2).sum().backward()
    found = [value.grad for value in attached.parameters_of("a").values() if value.grad is not None]
    assert {gradient.dtype for gradient in found} == {torch.float32}


def test_a_halved_base_keeps_the_frequencies_of_its_rotary_positions() -> None:
    attached = attach(model("llama"), {"run": LoraConfig(rank=2)})
    before = {name: value.clone() for name, value in attached.base.named_buffers()}
    attached.halve()
    assert {value.dtype for value in attached.base.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in attached.parameters_of("run").values()} == {torch.float32}
    assert before
    assert all(torch.equal(value, before[name]) for name, value in attached.base.named_buffers())


@pytest.mark.parametrize("family", [family for family in TABLED if family != "opt"])  # OPT's padding is at −1
@torch.no_grad()
def test_padding_at_the_right_has_the_places_that_the_model_itself_gives_it(family: str) -> None:
    base = model(family)
    batch = batch_of(base, TEXTS, to=20)
    for prefix in ("", "decoder_") if base.config.is_encoder_decoder else ("",):
        empty = batch[f"{prefix}attention_mask"] == 0
        batch[f"{prefix}input_ids"][empty] = base.config.pad_token_id or 0
    wanted = output(base(**batch))
    attached = attach(base, {"a": RUNS["lora"]})
    with attached.route([None] * len(TEXTS)):
        assert torch.equal(output(attached(**batch)), wanted)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
@torch.no_grad()
def test_padding_beside_the_longest_text_passes_no_position_however_a_prefix_shifts_its_row(family: str) -> None:
    attached = attach(model(family), {"a": PrefixConfig(length=3, reparametrisation="none")})
    randomise_runs(attached)
    rows = [TEXTS[0], (TEXTS[1] * POSITIONS)[:POSITIONS]]
    together = outputs(attached, ["a", None], rows)
    for name, row, found in zip(("a", None), rows, together, strict=True):
        assert torch.allclose(found, outputs(attached, [name], [row])[0], atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_penalty_on_a_prompts_words_knows_no_virtual_tokens(family: str) -> None:
    attached, row, new = generating(family), [5, 9, 14, 33, 8], list[int]()
    base = attached.base
    for _ in range(NEW):
        scores = outputs(attached, ["prompt"], [row + new])[0][-1]
        scores[row] = torch.where(scores[row] < 0, scores[row] / 3, scores[row] * 3)
        new.append(int(scores.argmax()))
    with attached.route(["prompt"]):
        found = base.generate(
            torch.tensor([virtual(attached, "prompt") + row]),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=VOCABULARY + 99,
            encoder_repetition_penalty=3.0,
        )[0, -NEW:].tolist()
    assert found == new
    attached.detach()
    assert "_get_logits_processor" not in vars(base)
