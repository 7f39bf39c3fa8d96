"""A prompt classification step against the same with the whole vocabulary's logits; five templates × three seeds.

    python benchmarks/verbalizer.py --model FOLDER [--batch 16] [--length 64] [--repeats 15]
    python benchmarks/verbalizer.py --model FOLDER --runs [--steps 20]

A step is forward and backward of LoRA on query and value. "words" reads the LM head at the mask, for the label's words;
"vocabulary" is Transformers' own model with its loss over the label words' logits at the mask, taken from the logits of
all tokens over the whole vocabulary. Both are timed in turns, and the median of each is given. `--runs` trains five
templates by three seeds in one pass, and then one after another, on texts of random words.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = {"negative": "terrible", "positive": "great"}
TEMPLATES = (
    "{text} It was {mask}.",
    "{text} All in all, it was {mask}.",
    "Just {mask}! {text}",
    "{text} In summary, this is {mask}.",
    "It is {mask}: {text}",
)
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a masked model's folder")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())} on {os.cpu_count()} cores")
    if options.runs:
        with tempfile.TemporaryDirectory() as folder:
            runs(options, Path(folder))
        return
    words, vocabulary = step_of_words(options), step_of_vocabulary(options)
    seconds = in_turns([words, vocabulary], options.repeats)
    print(f"words       {1000 * seconds[0]:8.1f} ms a step")
    print(f"vocabulary  {1000 * seconds[1]:8.1f} ms a step, {seconds[1] / seconds[0]:.2f} times as long")


def in_turns(steps: list[Callable[[], object]], repeats: int) -> list[float]:
    """The median seconds of each step, after one that is not counted."""
    found: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 1):
        for own, step in zip(found, steps, strict=True):
            before = time.perf_counter()
            step()
            if turn:
                own.append(time.perf_counter() - before)
    return [statistics.median(own) for own in found]


def texts(count: int, length: int, seed: int) -> list[str]:
    """Texts of one-token words, so many that a filled template has about `length` tokens."""
    draw = random.Random(seed)
    known = ("the", "film", "of", "a", "good", "day", "in", "house", "with", "old", "story", "and", "long", "river")
    return [" ".join(draw.choice(known) for _ in range(length - 6)) for _ in range(count)]


def rows(options: Any) -> list[Any]:
    from graftlm.core.example import Example

    found = texts(options.batch, options.length, 0)
    return [Example(text, label=place % 2) for place, text in enumerate(found)]


def step_of_words(options: Any) -> Callable[[], object]:
    """Ours: the head at the mask and over the label words."""
    import torch

    from graftlm.checkpoint import load_base
    from graftlm.core.settings import HeadConfig, PromptConfig
    from graftlm.methods import parse
    from graftlm.recipes._building import build
    from graftlm.tasks import Problem

    base = load_base(options.model, head="own")
    prompt = PromptConfig(template=TEMPLATES[0], verbalizer=WORDS)
    problem = Problem("classification", tuple(WORDS))
    model = build(base, {"run": parse("lora", {})}, HeadConfig(), problem, {"run": 0}, {"run": prompt})
    encoded = model.encode(rows(options), "run")
    print(f"rows of {max(row.length for row in encoded.rows)} tokens")
    model.attached.train()
    chosen, targets = {"run": range(options.batch)}, {"run": model.task.goals(encoded)}

    def step() -> object:
        losses = model.losses(chosen, {"run": 0}, {"run": encoded.rows}, targets)["run"]
        torch.autograd.backward(losses.mean())
        return losses

    return step


def step_of_vocabulary(options: Any) -> Callable[[], object]:
    """The same rows and the same LoRA, with Transformers' own head on all tokens."""
    import torch

    from graftlm.checkpoint import load_base
    from graftlm.methods import attach, parse

    base = load_base(options.model, head="mlm")
    attached = attach(base.model, {"run": parse("lora", {})}, tokenizer=base.tokenizer)
    attached.route("run")
    attached.train()
    examples = rows(options)
    batch = base.tokenizer([f"{row.text} It was [MASK]." for row in examples], padding=True, return_tensors="pt")
    ids = torch.tensor(base.tokenizer.convert_tokens_to_ids(list(WORDS.values())))
    place = (batch["input_ids"] == base.tokenizer.mask_token_id).nonzero()[:, 1]
    goals = torch.tensor([row.label for row in examples])

    def step() -> object:
        logits = attached(**batch).logits  # b t v
        own = logits[torch.arange(len(examples)), place][:, ids]
        loss = torch.nn.functional.cross_entropy(own, goals)
        loss.backward()
        return loss

    return step


def runs(options: Any, folder: Path) -> None:
    """Five templates × three seeds in one pass and one after another."""
    import json

    from graftlm.checkpoint import load_base
    from graftlm.core.reporter import Silent
    from graftlm.core.settings import FitConfig
    from graftlm.recipes._accelerator import accelerator_of
    from graftlm.recipes._run import jobs, losses_of, read
    from graftlm.recipes._signals import Stopper
    from graftlm.training import train

    data = folder / "train.jsonl"
    labelled = [{"text": text, "label": list(WORDS)[place % 2]} for place, text in enumerate(texts(32, 24, 1))]
    data.write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")
    configs = [
        FitConfig.parse(
            {
                "model": options.model,
                "data": {"path": str(data), "cache": False},
                "method": {"name": "lora"},
                "prompt": {"template": template, "verbalizer": WORDS},
                "training": {"max_steps": options.steps, "batch_size": 4},
                "seed": seed,
                "out": str(folder / "run"),
            }
        )
        for template in TEMPLATES
        for seed in range(SEEDS)
    ]
    read_runs = [read(f"run{place}", config, Silent()) for place, config in enumerate(configs)]
    found: dict[str, float] = {}
    for way, groups in (("together", [read_runs]), ("apart", [[run] for run in read_runs])):
        seconds = 0.0
        for group in groups:
            base, accelerator = load_base(options.model, head="own"), accelerator_of(group[0].config, False)
            made = jobs(group, base, accelerator.device, Stopper(), Silent())
            before = time.perf_counter()
            train(losses_of(made), {name: own.plan for name, own in made.items()}, accelerator, Silent())
            seconds += time.perf_counter() - before
        found[way] = seconds
        print(f"{way:8}  {seconds:7.1f} s for {len(read_runs)} runs of {options.steps} steps", flush=True)
    print(f"apart takes {found['apart'] / found['together']:.2f} times as long")


if __name__ == "__main__":
    main()
