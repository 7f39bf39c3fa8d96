"""n LoRA runs trained together in one pass against one after another, by tokens per run.

    python benchmarks/many_runs.py [--runs 1 4 16] [--tokens 16 128 1024] [--rounds 5]

MiniLM's shape with random weights, batch 8 a run where the tokens allow, forward, backward and AdamW. Both ways
alternate within one process; medians of the rounds are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from graftlm.methods import attach
from graftlm.methods.lora import LoraConfig

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def steps(runs: int, tokens: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One training step of all runs: together, and one after another."""
    attached = attach(BertModel(BertConfig(**SHAPE)), {f"run{n}": LoraConfig(rank=8) for n in range(runs)})
    attached.train()
    names = list(attached.runs)
    rows = min(8, max(1, tokens // 8))
    ids = torch.randint(1000, (rows, tokens // rows))
    optimizers = {name: torch.optim.AdamW(attached.parameters_of(name).values()) for name in names}

    def loss(count: int) -> Tensor:
        batch = {"input_ids": ids.repeat(count, 1), "attention_mask": torch.ones_like(ids).repeat(count, 1)}
        return attached(**batch).last_hidden_state.pow(2).mean((1, 2)).sum()

    def update(of: list[str]) -> None:
        for name in of:
            optimizers[name].step()
            optimizers[name].zero_grad()

    def together() -> None:
        with attached.route([name for name in names for _ in range(rows)]):
            loss(runs).backward()
        update(names)

    def apart() -> None:
        for name in names:
            with attached.route(name):
                loss(1).backward()
            update([name])

    return together, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; milliseconds a step of all runs, median of {options.rounds}")
    print("runs  tokens a run  together  one by one  gain")
    for tokens in options.tokens:
        for runs in options.runs:
            ways = steps(runs, tokens)
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(options.rounds + 1):
                for way, own in zip(ways, seconds, strict=True):
                    started = time.perf_counter()
                    way()
                    if turn:  # the first turn warms up
                        own.append(time.perf_counter() - started)
            one, other = (1000 * statistics.median(own) for own in seconds)
            print(f"{runs:4}  {tokens:12}  {one:8.1f}  {other:10.1f}  {other / one:4.2f}", flush=True)


if __name__ == "__main__":
    main()
