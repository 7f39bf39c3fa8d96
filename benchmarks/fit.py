"""Training and prediction on a CPU against PEFT and Transformers' Trainer, side by side in one process.

    python benchmarks/fit.py step [--rounds 7]
    python benchmarks/fit.py sst2 --data DIR_OF_DATASETS [--epochs 2] [--seeds 1] [--sides "peft fp32" "ours fp32"]
    python benchmarks/fit.py smollm2 [--rounds 5]
    python benchmarks/fit.py cached --data DIR_OF_DATASETS
    python benchmarks/fit.py predict --data DIR_OF_DATASETS

`step`: MiniLM's shape with random weights, LoRA r=8, 32 × 64. `sst2`: MiniLM, LoRA r=8 on query and value, batch 32,
lr 1e-3, each side's seconds of training, validation accuracy and peak memory above the idle process, in processes of
their own that take turns. `smollm2`: its shape, LoRA r=16 on all linear layers, 4 × 128, 30 % of the tokens labelled.
`cached`: 256 examples, 10 epochs, head only and LoRA on the top half, with and without kept states. `predict`: 5,000
texts against a `pipeline` with the PEFT model, batch 32. The base's own dropout is off on both sides. The products with
frozen weights alone stand beside `step`, `smollm2` and `predict`: no way of training or asking has fewer.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
SMOLLM2 |= {"intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUERY_VALUE = ("attention.query", "attention.value")
SIDES = ("peft fp32", "peft bf16, grouped", "ours fp32", "ours bf16")


def medians(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median seconds of each call; they take turns, after one round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(own) for name, own in seconds.items()}


def show(seconds: Mapping[str, float], reference: str) -> None:
    import torch

    print(f"{processor()}, {torch.get_num_threads()} threads")
    for name, own in seconds.items():
        print(f"{name:28} {1000 * own:10.1f} ms  {seconds[reference] / own:5.2f} × {reference}")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


# ---- single steps --------------------------------------------------------------------------------------------------


def our_step(shape: str, sites: Any, rank: int, precision: str) -> Callable[[], None]:
    import torch
    import torch.nn.functional as F

    from graftlm.methods import attach
    from graftlm.methods.lora import LoraConfig

    base, batch, labelled = made(shape)
    base = base.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    whole, head = base, getattr(base, "lm_head", None)
    attached = attach(whole if head is None else whole.model, {"run": LoraConfig(rank=rank, sites=sites)}).train()
    attached.quicken()
    optimizer = torch.optim.AdamW(attached.parameters_of("run").values())

    def once() -> None:
        if head is None:
            loss = attached(**batch).last_hidden_state[:, 0].float().pow(2).mean()
        else:
            hidden = attached(**batch, use_cache=False).last_hidden_state
            logits = head(hidden[:, :-1][labelled[:, 1:]])  # at labelled positions alone
            loss = F.cross_entropy(logits.float(), batch["input_ids"][:, 1:][labelled[:, 1:]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return once


def peft_step(shape: str, targets: Any, rank: int, autocast: bool) -> Callable[[], None]:
    import torch
    from peft import LoraConfig, get_peft_model

    base, batch, labelled = made(shape)
    model = get_peft_model(base, LoraConfig(r=rank, target_modules=targets)).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    labels = torch.where(labelled, batch["input_ids"], -100)

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if shape == "minilm":
                loss = model(**batch).last_hidden_state[:, 0].float().pow(2).mean()
            else:
                loss = model(**batch, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return once


def made(shape: str) -> tuple[Any, dict[str, Any], Any]:
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if shape == "minilm":
        base, ids = BertModel(BertConfig(**MINILM, **NO_DROPOUT)), torch.randint(1000, (32, 64))
    else:
        base, ids = LlamaForCausalLM(LlamaConfig(**SMOLLM2)), torch.randint(1000, (4, 128))
    labelled = torch.rand(ids.shape) < 0.3
    return base, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labelled


def products(base: Any, batches: Sequence[int], labelled: int = 0, backward: bool = True) -> Callable[[], None]:
    """The products with frozen weights alone that batches of so many tokens need: what bounds all else.

    A head of a language model is at the labelled tokens alone, a pooler at none.
    """
    import torch
    import torch.nn.functional as F

    layers = {name: layer.weight.detach() for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear)}
    inside = [weight for name, weight in layers.items() if "pooler" not in name and name != "lm_head"]
    made = [(weight, tokens) for tokens in batches for weight in inside]
    made += [(layers["lm_head"], labelled)] if "lm_head" in layers else []
    most = {width: max(tokens for _, tokens in made) for weight in layers.values() for width in weight.shape}
    given = {width: torch.randn(tokens, width, dtype=torch.float32) for width, tokens in most.items()}

    def once() -> None:
        with torch.no_grad():
            for weight, tokens in made:
                F.linear(given[weight.shape[1]][:tokens], weight)
                if backward:
                    torch.mm(given[weight.shape[0]][:tokens], weight)

    return once


def step(options: argparse.Namespace) -> None:
    base, batch, _ = made("minilm")
    for name, sites, targets in (
        ("q and v", QUERY_VALUE, ["query", "value"]),
        ("all linear", "all-linear", "all-linear"),
    ):
        calls = {
            "PEFT fp32": peft_step("minilm", targets, 8, False),
            "PEFT under bf16 autocast": peft_step("minilm", targets, 8, True),
            "ours fp32": our_step("minilm", sites, 8, "fp32"),
            "ours bf16": our_step("minilm", sites, 8, "bf16"),
            "frozen products, fp32": products(base, [batch["input_ids"].numel()]),
        }
        print(f"\nLoRA r=8 on {name}, 32 × 64")
        show(medians(calls, options.rounds), "PEFT fp32")


def smollm2(options: argparse.Namespace) -> None:
    base, batch, labelled = made("smollm2")
    calls = {
        "PEFT fp32": peft_step("smollm2", "all-linear", 16, False),
        "PEFT under bf16 autocast": peft_step("smollm2", "all-linear", 16, True),
        "ours fp32": our_step("smollm2", "all-linear", 16, "fp32"),
        "ours bf16": our_step("smollm2", "all-linear", 16, "bf16"),
        "frozen products, fp32": products(base, [batch["input_ids"].numel()], int(labelled[:, 1:].sum())),
    }
    show(medians(calls, options.rounds), "PEFT fp32")


# ---- whole trainings -----------------------------------------------------------------------------------------------


def sst2(options: argparse.Namespace) -> None:
    """Each side in a process of its own, in turns, seed after seed."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for seed in range(options.seeds):
        for side in options.sides:
            job = {"side": side, "seed": seed, "data": str(options.data / "sst2"), "epochs": options.epochs}
            command = [sys.executable, __file__, "one", "--job", json.dumps(job)]
            row = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            found[side].append(row)
            print(side, seed, row, flush=True)
    print(processor())
    reference = statistics.median(row["seconds"] for row in found[options.sides[0]])
    for side, rows in found.items():
        seconds, memory = (statistics.median(row[key] for row in rows) for key in ("seconds", "memory"))
        accuracy = statistics.mean(row["accuracy"] for row in rows)
        print(
            f"{side:20} {seconds:7.1f} s  {reference / seconds:5.2f} ×  {memory / 2**20:7.0f} MiB  "
            f"accuracy {accuracy:.4f}"
        )


def one(options: argparse.Namespace) -> None:
    job = json.loads(options.job)
    print(json.dumps((peft_fit if job["side"].startswith("peft") else our_fit)(**job)))


def our_fit(side: str, seed: int, data: str, epochs: float) -> dict[str, float]:
    import torch  # noqa: F401

    import graftlm
    import graftlm.recipes.fit  # what is imported is part of the idle process

    idle = resident()
    with tempfile.TemporaryDirectory() as folder:
        run = graftlm.fit(
            model="minilm",
            data={"path": data, "cache": False},
            method={"name": "lora", "rank": 8, "sites": QUERY_VALUE},
            training={
                "learning_rate": 1e-3,
                "batch_size": 32,
                "epochs": epochs,
                "precision": side.split()[1],
                "eval_steps": 1 << 30,
            },
            out=f"{folder}/run",
            seed=seed,
        )
    timing = run.record["timing"]
    return {"seconds": timing["train_seconds"], "accuracy": run.metrics["accuracy"], "memory": peak() - idle}


def peft_fit(side: str, seed: int, data: str, epochs: float) -> dict[str, float]:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    from graftlm.checkpoint import resolve

    idle = resident()
    source = str(resolve("minilm").path)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(source)
    plain = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2, **NO_DROPOUT)
    model = get_peft_model(plain, LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS"))
    files = {split: f"{data}/{split}.jsonl" for split in ("train", "validation")}
    rows = load_dataset("json", data_files=files, cache_dir=tempfile.mkdtemp())
    names = sorted(set(rows["train"]["label"]))
    rows = rows.map(lambda row: {**tokenizer(row["text"], truncation=True), "label": names.index(row["label"])})
    bf16 = "bf16" in side
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            num_train_epochs=epochs,
            learning_rate=1e-3,
            bf16=bf16,
            train_sampling_strategy="group_by_length" if "grouped" in side else "random",
            report_to=[],
            save_strategy="no",
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows["train"], processing_class=tokenizer)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        memory = peak() - idle
        predicted = trainer.predict(rows["validation"])
    accuracy = float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())
    return {"seconds": seconds, "accuracy": accuracy, "memory": memory}


def resident() -> int:
    """Bytes of this process in memory."""
    import psutil

    return psutil.Process().memory_info().rss


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cached(options: argparse.Namespace) -> None:
    import graftlm

    top = {"name": "lora", "sites": r"encoder\.layer\.[345]\.attention\.self\.(query|value)"}
    for name, method in (("head", {"name": "head"}), ("LoRA on the top half", top)):
        seconds: dict[str, list[float]] = {"off": [], "auto": []}
        for _ in range(options.rounds):
            for cache, own in seconds.items():
                with tempfile.TemporaryDirectory() as folder:
                    run = graftlm.fit(
                        model="minilm",
                        data={"path": str(options.data / "sst2"), "limit": {"train": 256, "validation": 64}},
                        method=method,
                        training={"epochs": 10, "batch_size": 32, "cache": cache, "eval_steps": 1 << 30},
                        out=f"{folder}/run",
                    )
                timing = run.record["timing"]
                own.append(timing["train_seconds"] + timing["cache_seconds"])
        off, auto = (statistics.median(own) for own in seconds.values())
        print(f"{name}: {off:.2f} s recomputed, {auto:.2f} s from kept states, {off / auto:.1f} ×")


def predict(options: argparse.Namespace) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    import graftlm
    from graftlm.checkpoint import resolve

    lines = (options.data / "sst2/train.jsonl").read_text(encoding="utf-8").splitlines()[:5000]
    texts = [json.loads(line)["text"] for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        graftlm.fit(
            model="minilm",
            data={"path": str(options.data / "sst2"), "limit": {"train": 64, "validation": 64}},
            method={"name": "lora", "rank": 8},
            training={"max_steps": 2},
            out=f"{folder}/run",
        )
        source = str(resolve("minilm").path)
        tokenizer = AutoTokenizer.from_pretrained(source)
        plain = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
        lengths = sorted(len(ids) for ids in tokenizer(texts)["input_ids"])
        batches = [len(own) * own[-1] for own in (lengths[at : at + 32] for at in range(0, len(lengths), 32))]
        alone = products(plain.bert.encoder, batches, backward=False)
        model = PeftModel.from_pretrained(plain, f"{folder}/run/adapter").eval()
        theirs = pipeline("text-classification", model=model, tokenizer=tokenizer)
        ours = graftlm.load(f"{folder}/run", fold=True)
        calls = {
            "pipeline, batch 32": lambda: answered(theirs(texts, batch_size=32), texts),
            "ours, batch 32": lambda: answered(ours.predict(texts, batch_size=32), texts),
            "frozen products": alone,
        }
        with torch.no_grad():
            show(medians(calls, options.rounds), "pipeline, batch 32")


def answered(answers: Sequence[Any], texts: Sequence[str]) -> None:
    assert len(answers) == len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("step", "sst2", "smollm2", "cached", "predict", "one"))
    parser.add_argument("--data", type=Path, help="the folder that holds the datasets' folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="of sst2; the first is 1 ×")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None and options.part in ("sst2", "cached", "predict"):
        parser.error(f"{options.part} needs --data")
    globals()[options.part](options)


if __name__ == "__main__":
    main()
