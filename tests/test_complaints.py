"""What users of other libraries complain of, a test each, numbered as in our list of 24.

Those that a later part of the work owns: 6 (tagging and spans behind a prompt: the task families), the time of 11 (a
mixed batch: the comparison of methods), the sums of adapters in 14 (nothing here adds adapters yet; what scales one is
tested), 22 (the template is stored with the adapter: prompt learning), and of 23 the label words of several tokens
(prompt learning) and the spread in tables (the comparison). The memory estimate of 21 is tested with the crashes.
"""

import json
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

import graftlm
import tiny
from folders import rows, saved, write
from graftlm import UserError
from graftlm.checkpoint import Card, save_adapter
from graftlm.core.example import Example
from graftlm.core.settings import DataConfig
from graftlm.methods import MethodConfig, _dora, attach
from graftlm.methods.lora import LoraConfig
from graftlm.methods.prompt_tuning import PromptTuningConfig
from graftlm.recipes.export import vllm_obstacles
from graftlm.sites import Attached
from graftlm.tasks import load
from tiny import METHODS, SHARING, batch_of, model, output, outputs, padded, plainly, randomise_runs, virtual

TEXTS = [[5, 9, 14, 33, 8], [41, 7, 22]]
ROW = ["a", "a"]
EXACT = 1e-12


def attached_to(family: str, method: str | MethodConfig, **options: object) -> Attached:
    config = METHODS[method] if isinstance(method, str) else method
    made = attach(model(family, **options), {"a": config})
    randomise_runs(made)
    return made


def loss(attached: Attached) -> Tensor:
    return sum((row.float().square().mean() for row in outputs(attached, ROW, TEXTS)), torch.zeros(()))


def gradients(attached: Attached) -> dict[str, Tensor]:
    with attached.route("a"):
        loss(attached).backward()
    return {name: value.grad.clone() for name, value in attached.parameters_of("a").items() if value.grad is not None}


def fitted(folder: Path, family: str, method: dict[str, object], **options: object) -> Path:
    """A run of two steps."""
    base = saved(tiny.model(family, pad_token_id=0), folder / "base")
    data = {"path": write(folder / "rows.jsonl", rows(24)), "split": {"train": 0.7, "validation": 0.3}}
    training = {"max_steps": 2, "batch_size": 8, **options}
    return graftlm.fit(model=base, data=data, method=method, out=folder / "run", training=training).out


def near(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> bool:
    return all(torch.allclose(one, other, atol=tolerance, rtol=0) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_1_a_prefix_trains_under_gradient_checkpointing(family: str) -> None:
    plain, checkpointed = attached_to(family, "prefix").train(), attached_to(family, "prefix")
    checkpointed.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    wanted, found = gradients(plain), gradients(checkpointed.train())
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in wanted.items())
    assert any(value.any() for value in wanted.values())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@torch.no_grad()
def test_2_padding_changes_no_output(family: str, side: str) -> None:
    for method in SHARING:
        if tiny.fits(family, method):
            attached = attached_to(family, method, dtype=torch.float64)
            alone = [outputs(attached, ["a"], [text])[0] for text in TEXTS]
            assert near(outputs(attached, ROW, TEXTS, side, to=20), alone, 1e-10), method


@pytest.mark.parametrize("method", ["prompt", "prefix"])
@torch.no_grad()
def test_3_generate_gives_what_forward_passes_give(method: str) -> None:
    made = attach(model("gpt2", lm=True), {"a": METHODS[method]})
    randomise_runs(made)
    text, new = virtual(made, "a") + TEXTS[0], []
    with made.route("a"):
        batch = padded([text])
        found = made.base.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=999)[0, -4:].tolist()
        for _ in range(4):
            new.append(int(output(made(**padded([text + new])))[0, -1].argmax()))
    assert found == new


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_4_a_prefix_reaches_encoder_decoder_and_cross_attention_and_all_of_it_trains(family: str) -> None:
    found = gradients(attached_to(family, "prefix").train())
    assert {name.split(".")[1] for name in found} == {"encoder", "decoder", "cross"}
    assert all(value.ne(0).all() for value in found.values())


@pytest.mark.parametrize("method", ["prefix-mlp", "prompt-mlp", "ptuning"])
def test_5_a_prompt_method_goes_on_training_from_what_was_saved(method: str) -> None:
    def steps(attached: Attached, count: int) -> None:
        for _ in range(count):
            loss(attached).backward()
            for value in attached.parameters_of("a").values():
                value.data.sub_(0.1 * value.grad)
                value.grad = None

    straight = attached_to("bert", method).train()
    first = attached_to("bert", method).train()
    steps(straight, 4)
    steps(first, 2)
    second = attach(model("bert"), {"a": METHODS[method]}).train()
    second.load("a", first.parameters_of("a"))
    steps(second, 2)
    wanted = straight.parameters_of("a")
    assert all(torch.equal(value, wanted[name]) for name, value in second.parameters_of("a").items())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@torch.no_grad()
def test_7_the_base_can_be_had_beside_a_prompt(family: str) -> None:
    base = model(family)
    wanted = plainly(base, TEXTS)
    attached = attach(base, {"a": METHODS["prompt"]})
    with attached.disabled():
        found = output(attached(**batch_of(base, TEXTS)))
    assert near([found[0], found[1][:3]], wanted, 0.0)


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix"])
def test_8_a_decoder_s_classifier_reads_the_text_s_last_token_and_no_padding(method: str, tmp_path: Path) -> None:
    predictor = graftlm.load(fitted(tmp_path, "gpt2", {"name": method, "length": 3}))
    examples = [Example("w3"), Example("w1 w2 w3 w4 w5 w6 w7")]
    alone = torch.cat([predictor.logits([example]) for example in examples])
    assert torch.allclose(predictor.logits(examples), alone, atol=1e-6)


def test_9_tensors_that_are_missing_or_unexpected_are_refused() -> None:
    attached = attached_to("bert", "lora")
    tensors = attached.kept("a")
    lost = next(iter(tensors))
    with pytest.raises(UserError, match=f"1 missing .first: {lost}."):
        attached.load("a", {name: value for name, value in tensors.items() if name != lost})
    with pytest.raises(UserError, match=r"1 unexpected .first: other."):
        attached.load("a", {**tensors, "other": torch.ones(1)})


def test_10_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="qeury"):
        attach(model("bert"), {"a": LoraConfig(sites=("qeury",))})


@pytest.mark.parametrize("family", ["distilbert", "albert", "modernbert", "mpnet"])
def test_10_no_architecture_needs_targets_to_be_named(family: str) -> None:
    sites = LoraConfig().sites if family != "mpnet" else "all-linear"
    assert attach(model(family), {"a": LoraConfig(sites=sites)}).parameters_of("a")


@torch.no_grad()
def test_11_each_row_of_a_mixed_batch_is_answered_by_its_own_adapter() -> None:
    names = ["lora", "prompt", "prefix", "ia3", "bitfit", "houlsby", "ptuning", "lora-dora"]
    attached = attach(model("bert", dtype=torch.float64), {name: METHODS[name] for name in names})
    randomise_runs(attached)
    texts = tiny.texts(len(names))
    alone = [outputs(attached, [name], [text])[0] for name, text in zip(names, texts, strict=True)]
    assert near(outputs(attached, names, texts), alone, EXACT)


@torch.no_grad()
def test_12_doras_norms_are_worked_out_once_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    norms = _dora.norms

    def counted(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
        calls.append(1)
        return norms(weight, down, up, scale)

    monkeypatch.setattr(_dora, "norms", counted)
    attached = attached_to("bert", "lora-dora")
    outputs(attached, ROW, TEXTS)
    first = len(calls)
    outputs(attached, ROW, TEXTS)
    assert (first > 0, len(calls)) == (True, first)


def test_13_merging_in_bf16_leaves_the_base_as_it_was() -> None:
    base = model("llama", dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    attached = attach(base, {"a": METHODS["lora-all-linear"]})
    randomise_runs(attached)
    merged = attached.merged("a")
    attached.detach()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert {value.dtype for value in merged.values()} == {torch.float32}


@pytest.mark.parametrize("method", ["lora", "lora-rslora"])
@torch.no_grad()
def test_14_what_a_lora_adds_is_scaled_exactly(method: str) -> None:
    attached = attached_to("bert", method, dtype=torch.float64)
    weight = "encoder.layer.0.attention.self.query.weight"
    frozen = attached.base.state_dict()[weight.replace(".weight", ".inner.weight")]
    change = attached.merged("a")[weight] - frozen
    config = METHODS[method]
    tensors = attached.kept("a")
    product = tensors["0.attention.query.up"] @ tensors["0.attention.query.down"]
    scale = config.alpha / (config.rank**0.5 if config.rslora else config.rank)
    assert torch.allclose(change.double(), scale * product, atol=1e-6)


def test_15_tied_embeddings_stay_tied_and_a_prompt_stores_its_own_rows_alone() -> None:
    base = model("llama", lm=True, tie_word_embeddings=True)
    attached = attach(base, {"a": PromptTuningConfig(length=3)})
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert {tuple(value.shape) for value in attached.kept("a").values()} == {(3, tiny.WIDTH)}
    attached.detach()
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight


def test_16_what_vllm_refuses_is_said_when_a_run_is_exported(tmp_path: Path) -> None:
    run = fitted(tmp_path, "roberta", {"name": "lora"})
    said = graftlm.export_peft(run, tmp_path / "theirs").obstacles
    assert any("modules_to_save" in line or "head" in line for line in said)
    assert vllm_obstacles({"peft_type": "LORA", "r": 8, "target_modules": ["query"]}) == []


def test_17_only_keys_that_are_not_defaults_are_written(tmp_path: Path) -> None:
    body = json.loads(
        (fitted(tmp_path, "bert", {"name": "lora", "rank": 4}) / "adapter/adapter_config.json").read_text()
    )
    defaults = peft.LoraConfig().to_dict()
    assert [key for key, value in body.items() if key != "peft_type" and defaults.get(key) == value] == []


def test_18_a_tensor_without_elements_is_not_saved(tmp_path: Path) -> None:
    said = {"task": "regression", "labels": [], "pair": False, "method": {"name": "lora"}, "head": {}}
    card = Card.parse({**said, "model": "m", "fingerprint": "f", "max_length": 8, "seed": 0})
    with pytest.raises(UserError, match=r"head\.weight has no elements"):
        save_adapter(tmp_path / "run", card, {"head.weight": torch.empty(0, 4)}, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_19_what_is_trained_stays_fp32_on_a_half_precision_base(dtype: torch.dtype) -> None:
    attached = attached_to("llama", "lora", dtype=dtype).train()
    found = gradients(attached)
    nn.utils.clip_grad_norm_(attached.parameters_of("a").values(), 1.0)
    assert {value.dtype for value in (*attached.parameters_of("a").values(), *found.values())} == {torch.float32}


@pytest.mark.parametrize("name", ["lora", "lora_A", "default", "base_model"])
def test_20_the_base_is_given_back_whole_and_an_adapter_may_have_any_name(name: str) -> None:
    base = model("bert")
    before = {key: value.clone() for key, value in base.state_dict().items()}
    modules = list(base.named_modules())
    attached = attach(base, {name: METHODS["lora"], "b": METHODS["prompt"]})
    assert attached.kept(name).keys() == attach(model("bert"), {"a": METHODS["lora"]}).kept("a").keys()
    assert attached.detach() is base
    assert list(base.named_modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_21_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stopped: (loss|gradient norm) (nan|inf) at step \d+, learning rate 1e\+30"):
        fitted(tmp_path, "bert", {"name": "lora"}, learning_rate=1e30, clip=0, warmup=0, max_steps=8)


def test_23_few_shot_sets_repeat_by_their_seed_and_differ_by_it(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(60))

    def drawn(seed: int) -> list[str]:
        config = DataConfig(path=path, shots=4, shots_seed=seed)
        return [example.text for example in load(config, "classification", ("train",)).splits["train"]]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix", "ptuning"])
def test_24_a_prompt_longer_than_the_positions_is_refused_by_name(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'run "run" puts \d+ virtual tokens before the text, but .* has 64 positions'):
        fitted(tmp_path, "bert", {"name": method, "length": 60})
    assert not (tmp_path / "run").exists()


def test_every_complaint_is_tested_or_listed_as_a_later_part_s() -> None:
    tested = {
        int(name.split("_")[1]) for name in globals() if name.startswith("test_") and name.split("_")[1].isdigit()
    }
    assert tested == set(range(1, 25)) - {6, 22}
