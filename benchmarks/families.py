"""LoRA and full fine-tuning of every kind of task on real data: the test split, several seeds.

    python benchmarks/families.py [--data ../shared/data] [--sets ud_ewt_pos btc_ner …] [--seeds 3]

MiniLM on tags, entities, questions, spelling and pairs, on all of their training examples; SmolLM2 with LoRA on 1,000
examples of texts, against the same model that is shown 5 examples in front of each prompt (its own `generate`, greedy).
Rows are kept as `methods.py` keeps them: a row that is there is not run again.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import Row, Rows, ended, processor, quicker, spread

from graftlm.core.files import write_text

ROOT = Path(__file__).parents[1]
SHOTS = 5
FEW = f"{SHOTS}-shot"
SPOKEN, SPOKEN_TESTS = 1000, 200  # examples that are trained on and written for, of the sets of texts
ENCODER = {
    "full": ({"name": "full"}, 2e-4),
    "lora": ({"name": "lora", "rank": 8, "sites": "all-linear"}, 2e-3),
}
RATES = {("mrpc", "lora"): 5e-4, ("ewt_spelling", "lora"): 1e-3}  # where another one is better on validation
DECODER = {FEW: ({}, 0.0), "lora": ({"name": "lora", "rank": 8, "sites": "all-linear"}, 1e-3)}
SETS: dict[str, Row] = {
    "ud_ewt_pos": {"task": {"name": "tagging"}, "columns": {"tags": "upos"}, "metric": "accuracy", "epochs": 1},
    "btc_ner": {"task": {"name": "tagging"}, "columns": {"tags": "ner_tags"}, "metric": "f1", "epochs": 3},
    "mrpc": {"task": {"name": "classification"}, "columns": {}, "metric": "accuracy", "epochs": 3},
    "ewt_spelling": {  # 921 sentences and as many edits as words: steps are what it needs
        "task": {"name": "spelling"},
        "columns": {},
        "metric": "f1",
        "epochs": 8,
        "batch_size": 4,
    },
    "squad_wiki": {"task": {"name": "spans"}, "columns": {}, "metric": "f1", "epochs": 2},
    "e2e_nlg": {"task": {"prompt": "{mr} =>", "target": "{target}"}, "metric": "bleu", "epochs": 1},
    "multi30k_en_de": {"task": {"prompt": "English: {en} German:", "target": "{de}"}, "metric": "bleu", "epochs": 1},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the datasets' folder")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), metavar="SET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of new runs; what is quicker here by default")
    parser.add_argument("--max-steps", type=int, help="of each run, to try the benchmark")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results" / "families")
    options = parser.parse_args()
    options.to.parent.mkdir(parents=True, exist_ok=True)
    settings = {"max_steps": options.max_steps}
    rows = Rows(options.to.with_suffix(".jsonl"), settings, one, {"precision": options.precision or quicker()})
    for seed in range(options.seeds):
        for name in options.sets:
            if not (options.data / name).is_dir():
                print(f"{name}: skipped, there is no {options.data / name}")
                continue
            for label, (method, usual) in methods_of(name).items():
                rate = RATES.get((name, label), usual)
                job = {"set": name, "label": label, "method": method, "rate": rate, "seed": seed, **SETS[name]}
                rows.measured(job, options.data / name)
    write_text(options.to.with_suffix(".md"), report(rows.mine()))
    print(f"{options.to.with_suffix('.md')}: written; {rows.failed} runs failed")
    return 1 if rows.failed else 0


def methods_of(name: str) -> Mapping[str, tuple[Row, float]]:
    """What is compared on a set: methods with their rates."""
    return DECODER if _speaks(SETS[name]) else ENCODER


def _speaks(job: Row) -> bool:
    return "prompt" in job["task"]


def one(job: Row) -> Row:
    """One run, in this process: its scores, its numbers and its time."""
    import graftlm
    from graftlm.cli import hush

    hush()
    if job["label"] == FEW:
        return shown(job)
    speaks = _speaks(job)
    training = {"learning_rate": job["rate"], "epochs": job["epochs"], "precision": job["precision"]}
    training["batch_size"] = job.get("batch_size", 16)
    if job["max_steps"] is not None:
        training["max_steps"] = job["max_steps"]
    task = {"name": "generation", "max_new_tokens": 64, **job["task"]} if speaks else job["task"]
    with tempfile.TemporaryDirectory() as work:
        data = _cut(Path(job["folder"]), Path(work), job["seed"]) if speaks else Path(job["folder"])
        run = graftlm.fit(
            model="smollm2" if speaks else "minilm",
            task=task,
            data={"path": str(data), "columns": job.get("columns", {}), "skip_bad": True},
            out=f"{work}/run",
            method=job["method"],
            training=training,
            seed=job["seed"],
        )
        tested = graftlm.evaluate(f"{work}/run", str(data), "test", batch_size=64, precision=job["precision"])
    return {
        "validation": run.metrics[job["metric"]],
        "test": dict(tested.metrics),
        "parameters": dict(run.parameters),
        "seconds": round(run.seconds, 1),
        "processor": processor(),
    }


def _cut(source: Path, work: Path, seed: int) -> Path:
    """A set with the training examples that a seed draws, and the first of the other splits."""
    target = work / source.name
    target.mkdir()
    most = {"train": SPOKEN, "validation": 100, "test": SPOKEN_TESTS}
    for file in sorted(source.glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines()
        count = min(len(lines), most[file.stem])
        chosen = random.Random(seed).sample(lines, count) if file.stem == "train" else lines[:count]
        (target / file.name).write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return target


def shown(job: Row) -> Row:
    """What the bare model writes behind examples that a seed draws: a line an example, up to the line's end."""
    import torch

    from graftlm.checkpoint import load_base

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        data = _cut(Path(job["folder"]), Path(work), job["seed"])
        splits = {split: _lines(data / f"{split}.jsonl") for split in ("train", "test")}
    task, size = job["task"], 16
    shots = random.Random(job["seed"]).sample(splits["train"], SHOTS)
    front = "".join(f"{task['prompt']} {task['target']}\n".format(**row) for row in shots)
    prompts = [front + task["prompt"].format(**row) for row in splits["test"]]
    base: Any = load_base("smollm2", head="lm")
    model, tokenizer = (
        base.model.to(torch.bfloat16 if job["precision"] == "bf16" else torch.float32).eval(),
        base.tokenizer,
    )
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    written: list[str] = []
    for first in range(0, len(prompts), size):
        batch = tokenizer(prompts[first : first + size], return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=64, do_sample=False, stop_strings=["\n"], tokenizer=tokenizer)
        texts = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        written += [text.strip().split("\n")[0].strip() for text in texts]
    score = _bleu(written, splits["test"], task["target"])
    seconds = round(time.perf_counter() - started, 1)
    return {
        "validation": score,
        "test": {"bleu": score},
        "parameters": {},
        "seconds": seconds,
        "processor": processor(),
    }


def _lines(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _bleu(texts: Sequence[str], rows: Sequence[Row], target: str) -> float:
    """sacrebleu's BLEU, as runs of generation are measured, against all references there are."""
    from sacrebleu import corpus_bleu

    right = [row.get("references") or [target.format(**row)] for row in rows]
    most = max(map(len, right))
    return corpus_bleu(
        list(texts), [[own[place] if place < len(own) else None for own in right] for place in range(most)]
    ).score


def report(rows: Sequence[Row]) -> str:
    """A line a set and method: the metric on test, mean ± standard deviation over seeds."""
    lines = ["| data | metric | method | test | seeds | trained | in |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, about in SETS.items():
        for label in methods_of(name):
            own = [row for row in rows if (row["job"]["set"], row["job"]["label"]) == (name, label)]
            own = [row for row in own if about.items() <= row["job"].items()]  # with the settings as they are now
            if own:
                scores = [row["test"][about["metric"]] for row in own]
                parameters = own[0]["parameters"]
                trained = f"{parameters['delta'] + parameters['head']:,}" if parameters else "0"
                precisions = ", ".join(sorted({row["precision"] for row in own}))
                said = f"{spread(scores)} | {len(scores)} | {trained} | {precisions} |"
                lines.append(f"| {name} | {about['metric']} | {label} | {said}")
    where = ", ".join(sorted({row["processor"] for row in rows}))
    return "\n".join(
        [
            "# Families of tasks",
            "",
            "The test split; MiniLM but for the sets of texts, which are SmolLM2's with 1,000 training examples and "
            f"the first {SPOKEN_TESTS} of test. Weights are chosen on validation. {FEW}: the bare model "
            f"behind {SHOTS} examples. Made by `python benchmarks/families.py`; each run is a line of the `.jsonl` "
            "beside it.",
            "",
            f"Measured on {where}.",
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    ended(main)
