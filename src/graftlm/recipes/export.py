"""One job: write a run as an adapter of PEFT's, and say what stands between it and vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import allclose

from graftlm import methods
from graftlm.checkpoint import load_tensors, save_peft
from graftlm.core.errors import UserError
from graftlm.core.reporter import Reporter, Warned
from graftlm.core.settings import HeadConfig
from graftlm.recipes._building import build
from graftlm.recipes._peft import with_head
from graftlm.recipes.predict import RUN, opened, problem_of

VLLM_RANK = 16  # its default max_lora_rank
VLLM_HEADS = ("score", "classifier")
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Exported:
    """Where a run was written, and what keeps vLLM from serving it as it is, each with what helps."""

    folder: Path
    obstacles: tuple[str, ...]


def export_peft(run: str | Path, to: str | Path, reporter: Reporter | None = None) -> Exported:
    """Writes a run's method and head as a folder that PEFT loads, after checking that they can be read back.

    A method or a pooling that PEFT has no words for is refused by name, and nothing is written.
    """
    reporter = reporter or Warned()
    path, target = Path(run), Path(to)
    if target.exists():
        raise UserError(f"{target} exists; name a new folder")
    card, base, method = opened(path)
    form = methods.peft_form(method, base.sites())
    head = HeadConfig.parse(card.head, where="head.")
    prompts = {RUN: card.prompt} if card.prompt is not None else None
    model = build(base, {RUN: method}, head, problem_of(card), {RUN: card.seed}, prompts)
    form = with_head(form, model, head)
    model.attached.load(RUN, load_tensors(path, card, form))
    tensors = {name: tensor.detach() for name, tensor in model.attached.parameters_of(RUN).items()}
    again = form.read(form.write(tensors))
    lost = [name for name in tensors if name not in again or not allclose(again[name], tensors[name], 1e-6, 0)]
    if lost:
        raise UserError(f"{lost[0]} does not come back from PEFT's form as it was; nothing is written")
    named = card.labels if model.head.outputs == len(card.labels) else ()
    save_peft(target, form, tensors, _readme(card.model, card.task, named))
    for note in form.notes:
        reporter.line(note)
    found = tuple(vllm_obstacles(form.body))
    for line in found:
        reporter.line(f"vLLM: {line}")
    return Exported(target, found)


def vllm_obstacles(body: Mapping[str, Any]) -> list[str]:
    """What keeps vLLM from serving an adapter of PEFT's, each with what helps."""
    kind, merge = body["peft_type"], "serve the model that graftlm merge writes"
    if kind != "LORA":
        other = f", or {merge}" if kind == "IA3" else ""
        return [f"it serves LoRA alone, not {kind}; train with --method lora{other}"]
    found = []
    if "modules_to_save" in body:
        saved = ", ".join(body["modules_to_save"])
        if set(body["modules_to_save"]) <= set(VLLM_HEADS):
            found.append(
                f"releases before its pull request 53555 (2026) refuse the head ({saved}); take a later one, or {merge}"
            )
        else:
            found.append(f"it refuses modules_to_save ({saved}) other than {' and '.join(VLLM_HEADS)}; {merge}")
    if body.get("use_dora"):
        found.append(f"it has no DoRA; {merge}, or train with method.dora = false")
    if body.get("bias", "none") != "none" or body.get("lora_bias"):
        found.append(f"it takes no biases from an adapter; {merge}")
    ranks = [body["r"], *body.get("rank_pattern", {}).values()]
    if max(ranks) > VLLM_RANK:
        fits = next((rank for rank in VLLM_RANKS if rank >= max(ranks)), None)
        found.append(
            f"rank {max(ranks)} is over its default of {VLLM_RANK}; start it with --max-lora-rank {fits}"
            if fits
            else f"rank {max(ranks)} is over {VLLM_RANKS[-1]}, the most that it takes; {merge}"
        )
    if body.get("rank_pattern") or body.get("alpha_pattern"):
        found.append(f"it scales every layer by the one lora_alpha and r, not by patterns; {merge}, or train without")
    if any("embed" in name or name.endswith("wte") for name in body["target_modules"]):
        found.append(f"it takes no LoRA on the embedding of most models; {merge}, or train without the embedding")
    return found


def _readme(model: str, task: str, labels: tuple[str, ...]) -> str:
    order = f"Labels, in the order of the logits: {', '.join(labels)}.\n" if labels else ""
    return (
        f"---\nbase_model: {model}\nlibrary_name: peft\n---\n\n"
        f"An adapter for {task}, written by graftlm in PEFT's format.\n\n{order}"
    )
