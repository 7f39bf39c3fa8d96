"""Runs with each verbalizer, with words of several tokens, calibrated, and with an auxiliary loss, on tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graftlm
import tiny
from graftlm.checkpoint import load_base
from graftlm.core.config import Config
from graftlm.core.example import Example
from graftlm.core.registry import load, modules
from graftlm.core.reporter import Silent
from graftlm.core.settings import DataConfig, HeadConfig, PromptConfig
from graftlm.methods import parse as method_of
from graftlm.prompts import interpolated
from graftlm.recipes._asking import asked
from graftlm.recipes._auxiliary import masked_rows
from graftlm.recipes._building import build
from graftlm.recipes._model import TaskModel
from graftlm.recipes.zero_shot import evaluate
from graftlm.tasks import Features
from graftlm.tasks import parse as task_of
from prompts.models import WORDS, rows, saved, write
from reliability.runs import Killed, Killing, left

TEMPLATE = "{text:shorten} w5 , {mask} ."
ONE = {"a": "w1", "b": "w2"}
MANY = {"a": ["w1", "w3", "w9"], "b": ["w2", "w4", "w11 w12"]}
SPLIT = {"a": "w1 w3", "b": "w2"}
VERBALIZERS: dict[str, dict[str, Any]] = {
    "manual": {"name": "manual", "words": {"a": ["w1", "w3"], "b": {"w2": 3, "w4": 1}}},
    "warp": {"name": "soft", "words": MANY},
    "openprompt": {"name": "soft", "words": MANY, "variant": "openprompt"},
    "knowledgeable": {"name": "knowledgeable", "words": MANY, "quantile": 0.1},
    "prototypical": {"name": "prototypical", "words": ONE, "width": 6},
    "prototypes alone": {"name": "prototypical", "width": 6},
    "likelihood": {"name": "likelihood", "count": 2},
    "multi-mask": {"name": "multi-mask", "words": SPLIT},
    "multi-mask, full": {"name": "multi-mask", "words": SPLIT, "rule": "full"},
}
FAMILIES = [family for family in tiny.TABLED if family != "qwen2"]  # whose tokenizer class takes no vocabulary of words
MORE = {"calibration": "contextual", "mlm_weight": 0.2}


@pytest.mark.parametrize("more", [{}, MORE], ids=["plain", "calibrated"])
@pytest.mark.parametrize("name", VERBALIZERS)
def test_a_run_is_stored_with_all_that_its_verbalizer_found(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", rows(24)), "split": {"train": 0.75, "validation": 0.25}}
    run = graftlm.fit(
        model=saved("bert", tmp_path / "base"),
        data=data,
        method="lora",
        prompt={"template": TEMPLATE, "verbalizer": VERBALIZERS[name], **more},
        out=tmp_path / "run",
        training={"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2},
    )
    again = graftlm.evaluate(tmp_path / "run", data, "validation")
    near = name == "prototypical"  # whose two labels are equal here but for rounding
    compared = ["loss"] if near else list(run.metrics)
    assert [again.metrics[key] for key in compared] == pytest.approx([run.metrics[key] for key in compared], abs=1e-5)
    card = json.loads((tmp_path / "run/adapter/graftlm.json").read_text())["prompt"]
    if name == "likelihood":
        assert {label: len(own) for label, own in card["verbalizer"]["words"].items()} == {"a": 2, "b": 2}
    if name == "knowledgeable":
        assert len(card["verbalizer"]["priors"]) == sum(map(len, card["verbalizer"]["words"].values()))
        assert [own[0] for own in card["verbalizer"]["words"].values()] == ["w1", "w2"]


def made(folder: Path, prompts: dict[str, dict[str, Any]], family: str = "bert", *, trains: bool = True) -> TaskModel:
    """A run for each prompt, of different methods, all their tensors random."""
    methods = {name: method_of(("lora", "prefix", "bitfit")[place % 3], {}) for place, name in enumerate(prompts)}
    configs = {name: PromptConfig.parse({"template": TEMPLATE, **own}) for name, own in prompts.items()}
    problem = task_of({}, "classification", ("a", "b"))
    base, seeds = load_base(saved(family, folder), head="own"), {name: 7 + place for place, name in enumerate(prompts)}
    built = build(base, methods, HeadConfig(), problem, seeds, configs, trains=trains)
    tiny.randomise_runs(built.attached)
    return built


def losses(model: TaskModel, names: list[str], step: int = 3) -> dict[str, torch.Tensor]:
    examples = [Example(row["text"], label="ab".index(row["label"])) for row in rows(8)]
    features = {name: model.encode(examples, name).rows for name in names}
    targets = dict.fromkeys(names, torch.tensor([example.label for example in examples]))
    chosen = {name: list(range(place, place + 3)) for place, name in enumerate(names)}
    return model.losses(chosen, dict.fromkeys(names, step), features, targets)


def test_runs_with_other_verbalizers_and_losses_learn_in_one_pass_as_they_do_alone(tmp_path: Path) -> None:
    prompts = {
        "manual": {"verbalizer": VERBALIZERS["manual"], "template": "w7 {text} {mask}", "mlm_weight": 0.3},
        "soft": {"verbalizer": VERBALIZERS["warp"]},
        "several": {"verbalizer": VERBALIZERS["multi-mask"]},
        "kpt": {"verbalizer": VERBALIZERS["knowledgeable"] | {"priors": [-1, -2, -3, -1, -2, -3]}, "mlm_weight": 0.1},
        "proto": {"verbalizer": VERBALIZERS["prototypical"]},
    }
    model = made(tmp_path, prompts)
    names = list(prompts)
    together = losses(model, names)
    torch.stack([own.mean() for own in together.values()]).sum().backward()
    shared = {name: grads(model, name) for name in names}
    for place, name in enumerate(names):
        for parameter in model.attached.parameters_of(name).values():
            parameter.grad = None
        alone = losses(model, names[: place + 1])[name]
        torch.testing.assert_close(alone, together[name], atol=1e-5, rtol=1e-5)
        alone.mean().backward()
        for key, gradient in grads(model, name).items():
            torch.testing.assert_close(gradient, shared[name][key], atol=1e-5, rtol=1e-4)


def test_prototypes_learn_beside_words_that_alone_teach_the_model(tmp_path: Path) -> None:
    model = made(tmp_path, {"words": {"verbalizer": ONE}, "proto": {"verbalizer": VERBALIZERS["prototypical"]}})
    plain = made(tmp_path / "b", {"words": {"verbalizer": ONE}})
    alone = made(tmp_path / "c", {"proto": {"verbalizer": VERBALIZERS["prototypes alone"]}})
    for own in (model, plain, alone):
        for name, value in own.attached.parameters_of(own.attached.runs[-1]).items():
            value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
        torch.stack([loss.mean() for loss in losses(own, list(own.attached.runs)).values()]).sum().backward()
    own = grads(model, "proto")
    assert {"head.down", "head.prototypes"} < set(own)
    assert any(gradient.abs().max() > 1e-4 for name, gradient in own.items() if not name.startswith("head."))
    assert all(gradient.abs().max() > 1e-6 for name, gradient in own.items() if name.startswith("head."))
    assert any(
        value.abs().max() > 1e-6 for name, value in grads(alone, "proto").items() if not name.startswith("head.")
    )


def grads(model: TaskModel, name: str) -> dict[str, torch.Tensor]:
    return {
        key: parameter.grad.clone()
        for key, parameter in model.attached.parameters_of(name).items()
        if parameter.grad is not None
    }


def test_the_auxiliary_loss_has_its_share_and_is_drawn_by_step_and_example(tmp_path: Path) -> None:
    verbalizer = {"verbalizer": ONE}
    found = {
        weight: losses(made(tmp_path / str(weight), {"run": {**verbalizer, "mlm_weight": weight}}), ["run"])["run"]
        for weight in (0.0, 0.5, 0.25)
    }
    torch.testing.assert_close(found[0.25], (found[0.0] + found[0.5]) / 2)
    assert (found[0.5] - found[0.0]).abs().min() > 1e-3
    model = made(tmp_path / "again", {"run": {**verbalizer, "mlm_weight": 0.5}})
    torch.testing.assert_close(losses(model, ["run"])["run"], found[0.5])
    assert not torch.allclose(losses(model, ["run"], step=4)["run"], found[0.5])


def test_the_template_s_mask_and_virtual_tokens_are_not_chosen() -> None:
    mask = WORDS.index("<mask>")
    row = Features([1, 20, 21, tiny.VOCABULARY + 1, mask, 2], None, [4])
    for key in range(20):
        (shown,), (words,) = masked_rows([row], torch.tensor([key]), {0, 1, 2, 3, mask}, mask, tiny.VOCABULARY)
        assert shown.places in ([1], [2])
        assert words.tolist() == [row.ids[place] for place in shown.places]
        assert shown.ids[3:] == row.ids[3:]


def test_calibration_takes_off_what_is_said_of_texts_without_content(tmp_path: Path) -> None:
    prompts = {kind: {"verbalizer": ONE, "calibration": kind} for kind in ("contextual", "pmi")}
    model = made(tmp_path, {**prompts, "plain": {"verbalizer": ONE}})
    for kind, texts in (("contextual", ("N/A", "", "<mask>")), ("pmi", ("",))):
        encoded = model.encode([Example(row["text"]) for row in rows(5)], kind).rows
        found = model.logits(encoded, kind, 2, Silent(), "")
        blank = model.encode([Example(text) for text in texts], kind).rows
        with torch.no_grad():
            bare, without = (model.forward({kind: own}).softmax(-1) for own in (encoded, blank))
        expected = bare / without.mean(0)
        torch.testing.assert_close(found.softmax(-1), expected / expected.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_words_of_several_tokens_are_foreseen_as_one_alone_is(tmp_path: Path) -> None:
    options = {"name": "multi-mask", "words": {"a": "w1 w3", "b": "w2"}}
    for rule in ("max-first", "left-to-right", "parallel", "full"):
        model = made(tmp_path / rule, {"run": {"verbalizer": {**options, "rule": rule}}})
        head, base = model.head, model.base
        model.attached.eval()
        encoded = model.encode([Example(row["text"]) for row in rows(4)], "run").rows
        assert all(len(row.places or ()) == 2 for row in encoded)
        with torch.no_grad():
            found = asked(head, "run", encoded, [], base.pad_id, 8)  # pyright: ignore[reportArgumentType]
            for row, own in zip(encoded, found, strict=True):
                short = Features(
                    [*row.ids[:-3], *row.ids[-2:]], None if row.types is None else row.types[1:], row.places[:1]
                )  # type: ignore[index]
                model.attached.route("run")
                logits = head.vocabulary([("run", short, [])], base.pad_id)  # pyright: ignore
                alone = logits[0, 0].log_softmax(-1)[WORDS.index("w2")]
                torch.testing.assert_close(own[1], alone, atol=1e-5, rtol=1e-5)


def test_a_causal_model_adds_up_what_it_foresees_of_a_word(tmp_path: Path) -> None:
    options = {"name": "multi-mask", "words": SPLIT, "rule": "full"}
    model = made(tmp_path, {"run": {"verbalizer": options, "template": "{text} w5 {mask}"}}, "llama", trains=False)
    model.attached.eval()
    (row,) = model.encode([Example("w20 w21")], "run").rows
    first, second = WORDS.index("w1"), WORDS.index("w3")
    with torch.no_grad():
        found = asked(model.head, "run", [row], model.virtual["run"], model.base.pad_id, 8)  # pyright: ignore
        ids = torch.tensor([[*row.ids, first]])
        model.attached.route("run")
        whole = model.attached(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
    torch.testing.assert_close(found[0, 0], whole[-2, first] + whole[-1, second], atol=1e-5, rtol=1e-5)
    with pytest.raises(graftlm.UserError, match="only a masked model has them"):
        made(tmp_path / "b", {"run": {"verbalizer": options, "template": "{text} {mask}"}}, "llama")
    with pytest.raises(graftlm.UserError, match='"max-first" fills masks one by one'):
        made(tmp_path / "c", {"run": {"verbalizer": {**options, "rule": "max-first"}, "template": "{mask}"}}, "gpt2")


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_adds_up_what_it_foresees_of_a_word(family: str, tmp_path: Path) -> None:
    options = {"name": "multi-mask", "words": SPLIT, "rule": "full"}
    model = made(tmp_path, {"run": {"verbalizer": options, "template": "{text} w5 {mask} w6"}}, family, trains=False)
    model.attached.eval()
    encoded = model.encode([Example("w20 w21"), Example("w9")], "run").rows
    start, first, second = model.attached.sites.config.decoder_start_token_id, WORDS.index("w1"), WORDS.index("w3")
    mask = WORDS.index("<mask>")
    with torch.no_grad():
        found = asked(model.head, "run", encoded, model.virtual["run"], model.base.pad_id, 8)  # pyright: ignore
        for row, own in zip(encoded, found, strict=True):
            assert row.places is not None
            before = [mask] if family == "t5" else row.ids[: row.places[0]]
            ids, decoded = torch.tensor([row.ids]), torch.tensor([[start, *before, first]])
            model.attached.route("run")
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": decoded}
            whole = model.attached(**batch).logits[0].log_softmax(-1)
            torch.testing.assert_close(own[0], whole[-2, first] + whole[-1, second], atol=1e-5, rtol=1e-5)


def test_a_score_is_learned_by_the_divergence_from_its_mixture(tmp_path: Path) -> None:
    config = PromptConfig.parse({"template": TEMPLATE, "verbalizer": {"0": "w1", "5": "w2"}})
    base, problem = load_base(saved("bert", tmp_path), head="own"), task_of({}, "regression")
    model = build(base, {"run": method_of("lora", {})}, HeadConfig(), problem, {"run": 0}, {"run": config})
    encoded = model.encode([Example("w20 w21", score=2.0), Example("w9", score=5.0)], "run")
    with torch.no_grad():
        out = model.forward({"run": encoded.rows})
        model.attached.train()
        found = model.losses({"run": [0, 1]}, {"run": 0}, {"run": encoded.rows}, {"run": torch.tensor([2.0, 5.0])})
    torch.testing.assert_close(out[:, 0], interpolated(out[:, 1:], torch.tensor([0.0, 5.0])))
    log = out[:, 1:].log_softmax(-1)
    share = torch.tensor([0.6, 0.4])
    expected = torch.stack([(share * (share.log() - log[0])).sum(), -log[1, 1]])
    torch.testing.assert_close(found["run"], expected)
    with pytest.raises(graftlm.UserError, match="calibration = pmi is for labels"):
        build(
            base, {"b": method_of("lora", {})}, HeadConfig(), problem, {"b": 0}, {"b": with_(config, calibration="pmi")}
        )


def with_(config: PromptConfig, **changed: Any) -> PromptConfig:
    return config.model_copy(update=changed)


def test_an_untrained_model_is_asked_by_words_of_knowledge_and_refuses_to_learn_any(tmp_path: Path) -> None:
    base = saved("bert", tmp_path / "base")
    data = DataConfig(path=write(tmp_path / "rows.jsonl", rows(20)), split={"test": 1.0})
    words = {"name": "knowledgeable", "words": {"a": ["w1", "w3"], "b": ["w2", "w4"]}, "weights": "mean"}
    found = evaluate(base, PromptConfig.parse({"template": TEMPLATE, "verbalizer": words, **MORE}), data)
    assert found.examples == 20
    learned = PromptConfig.parse({"template": TEMPLATE, "verbalizer": {"name": "likelihood"}})
    with pytest.raises(graftlm.UserError, match='"likelihood" is found in labelled examples'):
        evaluate(base, learned, data)
    with pytest.raises(graftlm.UserError, match="mlm_weight needs a masked model"):
        made(tmp_path / "c", {"run": {"verbalizer": ONE, "template": "{text} {mask}", "mlm_weight": 0.1}}, "gpt2")


@pytest.mark.parametrize("family", tiny.sparing(FAMILIES, ("bert", "albert", "modernbert", "llama", "t5", "bart")))
def test_a_fresh_soft_verbalizer_says_what_its_words_say_in_every_family(family: str, tmp_path: Path) -> None:
    words = {"a": "w1", "b": "w2"}
    soft = {"name": "soft", "words": words}
    base, problem = load_base(saved(family, tmp_path), head="own"), task_of({}, "classification", ("a", "b"))
    found = {}
    for name, verbalizer in (("plain", words), ("soft", soft)):
        config = PromptConfig.parse({"template": "{text} w5 {mask}", "verbalizer": verbalizer})
        model = build(base, {"run": method_of("lora", {})}, HeadConfig(), problem, {"run": 0}, {"run": config})
        rows_of = model.encode([Example(row["text"]) for row in rows(3)], "run").rows
        found[name] = model.logits(rows_of, "run", 3, Silent(), "").softmax(-1)
        model.attached.detach()
    torch.testing.assert_close(found["soft"], found["plain"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["knowledgeable", "prototypical"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", rows(20)), "split": {"train": 0.6, "validation": 0.4}}
    training = {"max_steps": 6, "eval_steps": 2, "save_steps": 1, "batch_size": 4, "learning_rate": 1e-2}
    prompt = {"template": TEMPLATE, "verbalizer": VERBALIZERS[name], "mlm_weight": 0.2}
    given: dict[str, Any] = {"model": saved("bert", tmp_path / "base"), "data": data, "method": "lora"}
    given |= {"training": training, "prompt": prompt}
    graftlm.fit(**given, out=tmp_path / "whole")
    with pytest.raises(Killed):
        graftlm.fit(**given, out=tmp_path / "killed", reporter=Killing(3))
    graftlm.fit(resume=tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


def test_every_verbalizer_has_options_with_words_in_its_docstring() -> None:
    for name in modules("graftlm.prompts.verbalizers"):
        module = load("graftlm.prompts.verbalizers", "verbalizer", name)
        assert issubclass(module.Options, Config)
        assert "words" in module.Options.model_fields
        assert module.NEEDS in ("", "texts", "labels")
        assert module.__doc__
