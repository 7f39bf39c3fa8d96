"""What DoRA costs over LoRA when a model is evaluated, and in a training step.

    python benchmarks/dora.py [--rounds 15] [--rows 32] [--tokens 64] [--sites all-linear]

MiniLM's shape with random weights. LoRA, DoRA and the bare base alternate within one process, each on a base of its
own; medians of the rounds are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertModel

from graftlm.methods import attach
from graftlm.methods.lora import LoraConfig

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
WAYS = ("base", "lora", "dora")


def ways(ids: torch.Tensor, sites: str | tuple[str, ...]) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """By name: one evaluation, and one forward and backward pass."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def made(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        attached = attach(BertModel(BertConfig(**SHAPE)), {"a": LoraConfig(rank=8, dora=name == "dora", sites=sites)})

        def evaluate() -> None:
            if attached.training:
                attached.eval()
            with torch.inference_mode(), attached.route(None if name == "base" else "a"):
                attached(**batch)

        def train() -> None:
            attached.train()
            attached(**batch).last_hidden_state.pow(2).mean().backward()
            for value in attached.parameters_of("a").values():
                value.grad = None
            attached.eval()

        return evaluate, train

    return {name: made(name) for name in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sites", nargs="+", default=["attention.query", "attention.value"])
    options = parser.parse_args()
    sites = "all-linear" if options.sites == ["all-linear"] else tuple(options.sites)
    found = ways(torch.randint(1000, (options.rows, options.tokens)), sites)
    print(f"{torch.get_num_threads()} threads; {options.rows} x {options.tokens}; medians of {options.rounds} in ms")
    for place, what in enumerate(("evaluation", "training step")):
        seconds: dict[str, list[float]] = {name: [] for name in WAYS if place == 0 or name != "base"}
        for turn in range(options.rounds + 2):
            for name, own in seconds.items():
                started = time.perf_counter()
                found[name][place]()
                if turn > 1:  # the first turns warm up
                    own.append(time.perf_counter() - started)
        medians = {name: 1000 * statistics.median(own) for name, own in seconds.items()}
        shown = "  ".join(f"{name} {value:.1f}" for name, value in medians.items())
        print(f"{what}: {shown}  dora / lora {medians['dora'] / medians['lora']:.3f}", flush=True)


if __name__ == "__main__":
    main()
