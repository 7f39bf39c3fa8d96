"""Training steps of methods against LoRA's at the same batch, interleaved within one process: `methods.py --speed`.

MiniLM's shape with random weights, forward, backward and AdamW. The methods take turns in an order drawn anew each
round, so that what else the machine does falls on all alike; medians of the rounds are compared.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BertConfig, BertModel

from graftlm.core.registry import facts
from graftlm.methods import attach, parse
from graftlm.sites import Tokens

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
REFERENCE = "lora"
LIMITS = {"prefix": 1.15, "unipelt": 1.6}  # what we hold them to, in LoRA's times


def step(name: str, rows: int, tokens: int) -> Callable[[], None]:
    """One training step of a method on a base of its own."""
    options: Any = facts("graftlm.methods")[name].get("EXAMPLE", {})
    attached = attach(BertModel(BertConfig(**SHAPE)), {"run": parse(name, dict(options))})
    attached.train()
    virtual = sum(act.length for act in attached.acts["run"] if isinstance(act, Tokens))
    front = attached.sites.vocabulary + torch.arange(virtual).expand(rows, virtual)
    ids = torch.cat([front, torch.randint(1000, (rows, tokens))], 1)
    optimizer = torch.optim.AdamW(attached.parameters_of("run").values())

    def once() -> None:
        with attached.route("run"):
            out = attached(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            out.pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return once


def compare(names: Sequence[str], rows: int, tokens: int, rounds: int) -> dict[str, float]:
    """Each method's median seconds a step."""
    steps = {name: step(name, rows, tokens) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order, shuffle = list(names), random.Random(0).shuffle
    for turn in range(rounds + 1):
        shuffle(order)
        for name in order:
            started = time.perf_counter()
            steps[name]()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(own) for name, own in seconds.items()}


def report(asked: Sequence[str], rows: int, tokens: int, rounds: int) -> bool:
    """Prints the comparison; false where a method is over its limit."""
    known = facts("graftlm.methods")
    names = [name for name in dict.fromkeys((REFERENCE, *(asked or LIMITS))) if name in known]
    for name in asked or LIMITS:
        if name not in known:
            print(f"{name}: skipped, there is no such method here")
    medians = compare(names, rows, tokens, rounds)
    print(f"{rows} rows of {tokens} tokens, {torch.get_num_threads()} threads, median of {rounds} rounds")
    kept = True
    for name, own in medians.items():
        ratio, limit = own / medians[REFERENCE], LIMITS.get(name)
        said = "" if limit is None else f", {'within' if ratio <= limit else 'OVER'} {limit:g}"
        kept = kept and (limit is None or ratio <= limit)
        print(f"{name:14} {1000 * own:8.1f} ms  {ratio:5.2f} × {REFERENCE}{said}")
    return kept
