"""32 few-shot LoRA runs in one pass, against ours one after another and PEFT with Transformers' Trainer.

    python benchmarks/compare.py --data DIR [--runs 32] [--sides together apart peft] [--precision fp32 bf16]
    python benchmarks/compare.py --data DIR --curve 1 2 4 8 16 32 64

MiniLM, 16 examples a label, batch 8, 100 steps each, evaluated once on 400 examples. Each side runs in a process of its
own, on as many threads as torch takes; loading of the model, of the data and of the libraries is not counted. Memory is
the process's peak.

PEFT's side is an ordinary script in a process that knows nothing of graftlm, with Trainer's own settings but for those
that both sides have (rate, batch, steps, warm-up, no weight decay, the base's own dropout off), without logging or
saving, and with one evaluation at the end.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("together", "apart", "peft")
RATE, BATCH, SHOTS, HELD_OUT = 1e-3, 8, 16, 400
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of splits of sst2")
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--curve", type=int, nargs="+", help="only ours in one pass, for these numbers of runs")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one))))
        return
    sides = ["together"] if options.curve else options.sides
    print("side      precision  runs  seconds  runs a minute  peak memory  accuracy", flush=True)
    for runs in options.curve or [options.runs]:
        for side in sides:
            for precision in options.precision if side != "peft" else ["fp32"]:
                job = {"side": side, "runs": runs, "precision": precision, "steps": options.steps}
                with tempfile.TemporaryDirectory() as folder:
                    given = {"data": str(few(options.data, Path(folder))), "model": options.model, "folder": folder}
                    if side == "peft":
                        given["model"] = str(path_of(options.model))
                    print(line(job, started({**job, **given})), flush=True)


def line(job: dict[str, Any], found: dict[str, float]) -> str:
    """A line of the table."""
    rate = 60 * job["runs"] / found["seconds"]
    return (
        f"{job['side']:8}  {job['precision']:9}  {job['runs']:4}  {found['seconds']:7.1f}  {rate:13.1f}  "
        f"{found['memory'] / 1e6:8.0f} MB  {found['accuracy']:8.3f}"
    )


def started(job: dict[str, Any]) -> dict[str, float]:
    """Measures one side in a process of its own."""
    command = [sys.executable, __file__, "--data", job["data"], "--one", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of training and evaluation, the process's peak of bytes, and the mean accuracy."""
    seconds, accuracy = (peft if job["side"] == "peft" else ours)(job, Path(job["folder"]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "memory": memory, "accuracy": accuracy}


def ours(job: dict[str, Any], folder: Path) -> tuple[float, float]:
    """All runs in one pass, or each in a pass of its own, beside one base."""
    from graftlm import cli
    from graftlm.checkpoint import load_base
    from graftlm.core.reporter import Silent
    from graftlm.recipes._accelerator import accelerator_of
    from graftlm.recipes._run import jobs, losses_of, read
    from graftlm.recipes._signals import Stopper
    from graftlm.training import train

    cli.hush()
    configs = settings(job, folder)
    first = read("run0", configs[0], Silent())
    runs = [read(f"run{place}", config, Silent(), first.data) for place, config in enumerate(configs)]
    groups = [runs] if job["side"] == "together" else [[run] for run in runs]
    seconds, best = 0.0, []
    for group in groups:
        base, accelerator = load_base(job["model"]), accelerator_of(group[0].config, False)
        found = jobs(group, base, accelerator.device, Stopper(), Silent())
        losses, plans = losses_of(found), {name: own.plan for name, own in found.items()}
        before = time.perf_counter()
        outcomes = train(losses, plans, accelerator, Silent())
        seconds += time.perf_counter() - before
        best += [outcome.best["accuracy"] for outcome in outcomes.values() if outcome.best]
    return seconds, sum(best) / len(best)


def settings(job: dict[str, Any], folder: Path) -> list[Any]:
    """The runs' options: they differ in their seeds alone."""
    from graftlm.core.settings import FitConfig

    training = {"max_steps": job["steps"], "batch_size": BATCH, "eval_steps": job["steps"], "learning_rate": RATE}
    return [
        FitConfig.parse(
            {
                "model": job["model"],
                "data": {"path": job["data"], "cache": False},
                "method": {"name": "lora", "rank": 8, "alpha": 16},
                "head": {"pooling": "mean"},
                "training": {**training, "precision": job["precision"]},
                "seed": seed,
                "out": str(folder / f"run{seed}"),
            }
        )
        for seed in range(job["runs"])
    ]


def few(data: str, folder: Path) -> Path:
    """A folder with 16 examples a label to train on, and 400 to evaluate on."""
    from graftlm import tasks
    from graftlm.core.settings import DataConfig

    problem = tasks.parse({}, "classification")
    drawn = tasks.load(DataConfig(path=data, shots=SHOTS), problem, splits=("train",))
    held_out = tasks.load(DataConfig(path=data, limit={"validation": HELD_OUT}), problem, splits=("validation",))
    to = folder / "few"
    to.mkdir()
    for split, examples in (("train", drawn.splits["train"]), ("validation", held_out.splits["validation"])):
        rows = [{"text": example.text, "label": drawn.labels[example.label or 0]} for example in examples]
        (to / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def path_of(model: str) -> Path:
    from graftlm.checkpoint import resolve

    return resolve(model).path


def peft(job: dict[str, Any], folder: Path) -> tuple[float, float]:
    """The same runs with PEFT and Trainer, one after another; padding to the longest text of a batch."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        logging,
    )

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    splits = {split: encoded(file, tokenizer) for split, file in files(Path(job["data"])).items()}
    labels = len({row["labels"] for row in splits["train"]})
    seconds, scores = 0.0, []
    for seed in range(job["runs"]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=labels, **NO_DROPOUT)
        config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"])
        arguments = TrainingArguments(
            output_dir=str(folder / f"peft{seed}"),
            max_steps=job["steps"],
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            learning_rate=RATE,
            weight_decay=0.0,
            warmup_steps=math.ceil(0.06 * job["steps"]),
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=get_peft_model(model, config),
            args=arguments,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
        )
        before = time.perf_counter()
        trainer.train()
        metrics = trainer.evaluate()
        seconds += time.perf_counter() - before
        scores.append(metrics["eval_accuracy"])
    return seconds, sum(scores) / len(scores)


def files(folder: Path) -> dict[str, Path]:
    return {split: folder / f"{split}.jsonl" for split in ("train", "validation")}


def encoded(path: Path, tokenizer: Any) -> list[dict[str, Any]]:
    rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in rows})
    return [{**tokenizer(row["text"], truncation=True), "labels": labels.index(row["label"])} for row in rows]


if __name__ == "__main__":
    main()
