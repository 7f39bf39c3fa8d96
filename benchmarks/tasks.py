"""Training of tagging and of spans: graftlm against PEFT with Transformers' Trainer as they come, MiniLM, LoRA, fp32.

    python benchmarks/tasks.py [--data ../shared/data] [--tasks tagging spans] [--steps 30] [--rounds 5]

Theirs is what the guides of Transformers show: a collator that pads each batch for tagging, rows padded to 384 tokens
for questions, batches in random order, the base's dropout on, which ours has off. Both sides have the same rows of at
most the same length, the same LoRA (rank 8 on queries and values) and the same batch size, run in one process and take
turns; the medians of rows a second are compared. The first round warms both sides up and is not counted.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import graftlm
from graftlm.checkpoint import resolve

ROOT = Path(__file__).parents[1]
SETS = {"tagging": "ud_ewt_pos", "spans": "squad_wiki"}
TAGS = {"tagging": "upos"}
LENGTH, STRIDE, RANK, ALPHA, RATE = 384, 128, 8, 16, 1e-3
Rows = list[dict[str, Any]]


class Encoded(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Rows as a Trainer takes them."""

    def __init__(self, rows: Rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        return self.rows[place]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the datasets' folder")
    parser.add_argument("--tasks", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1000, help="of train")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for task in options.tasks:
        source = options.data / SETS[task] / "train.jsonl"
        if not source.is_file():
            print(f"{task}: skipped, there is no {source}")
            continue
        print(json.dumps(compared(task, source, options)), flush=True)
    return 0


def compared(task: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of rows a second of both sides, and how many times as fast ours is."""
    lines = source.read_text(encoding="utf-8").splitlines()[: options.examples]
    rows = [json.loads(line) for line in lines]
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "train.jsonl"
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        theirs = their_rows(task, rows)
        for number in range(options.rounds + 1):
            speeds = {
                "ours": ours(task, data, Path(work) / f"ours{number}", options),
                "theirs": trained(task, theirs, Path(work) / f"theirs{number}", options),
            }
            for side, speed in speeds.items() if number else ():
                found[side].append(speed)
    medians = {side: statistics.median(speeds) for side, speeds in found.items()}
    return {
        "task": task,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "threads": options.threads,
        **{f"{side}_rows_per_second": round(speed, 2) for side, speed in medians.items()},
        "times": round(medians["ours"] / medians["theirs"], 2),
    }


def ours(task: str, data: Path, out: Path, options: argparse.Namespace) -> float:
    columns = {"tags": TAGS[task]} if task in TAGS else {}
    run = graftlm.fit(
        model="minilm",
        task={"name": task, "stride": STRIDE},
        data={"path": str(data), "split": {"train": 1.0}, "columns": columns, "skip_bad": True},
        method={"name": "lora", "rank": RANK, "alpha": ALPHA},
        out=out,
        training={
            "max_steps": options.steps,
            "batch_size": options.batch_size,
            "learning_rate": RATE,
            "max_length": LENGTH,
        },
    )
    return float(run.record["timing"]["train_examples_per_second"])


def their_rows(task: str, rows: Rows) -> tuple[Rows, Any, Sequence[str]]:
    """Rows as the guides make them, their tokenizer, and the labels."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("minilm").path)
    if task == "tagging":
        labels = sorted({tag for row in rows for tag in row[TAGS[task]]})
        return tagged(rows, tokenizer, labels), tokenizer, labels
    return answered(rows, tokenizer), tokenizer, ()


def tagged(rows: Rows, tokenizer: Any, labels: Sequence[str]) -> Rows:
    """The first token of each word has its tag, all others −100."""
    found = tokenizer([row["tokens"] for row in rows], truncation=True, max_length=LENGTH, is_split_into_words=True)
    made: Rows = []
    for place, row in enumerate(rows):
        words, before, goals = found.word_ids(place), None, []
        for word in words:
            goals.append(-100 if word is None or word == before else labels.index(row[TAGS["tagging"]][word]))
            before = word
        made.append({**{name: found[name][place] for name in found}, "labels": goals})
    return made


def answered(rows: Rows, tokenizer: Any) -> Rows:
    """Windows padded to the longest, with the first and last token of an answer, or the first of the row for none."""
    found = tokenizer(
        [row["question"].lstrip() for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    made: Rows = []
    for place, owner in enumerate(found["overflow_to_sample_mapping"]):
        inside = [at for at, side in enumerate(found.sequence_ids(place)) if side == 1]
        start, end = _places(rows[owner]["answers"], found["offset_mapping"][place], inside)
        row = {name: found[name][place] for name in tokenizer.model_input_names}
        made.append({**row, "start_positions": start, "end_positions": end})
    return made


def _places(answers: Mapping[str, Sequence[Any]], offsets: Sequence[tuple[int, int]], inside: list[int]) -> list[int]:
    if not answers["text"]:
        return [0, 0]
    first = answers["answer_start"][0]
    last = first + len(answers["text"][0])
    if offsets[inside[0]][0] > first or offsets[inside[-1]][1] < last:
        return [0, 0]
    own = [at for at in inside if offsets[at][0] < last and first < offsets[at][1]]
    return [own[0], own[-1]]


def trained(task: str, made: tuple[Rows, Any, Sequence[str]], out: Path, options: argparse.Namespace) -> float:
    rows, tokenizer, labels = made
    path = resolve("minilm").path
    collator: Callable[[Any], Any] = default_data_collator
    if task == "tagging":
        model = AutoModelForTokenClassification.from_pretrained(path, num_labels=len(labels), dtype=torch.float32)
        collator, kind = DataCollatorForTokenClassification(tokenizer), TaskType.TOKEN_CLS
    else:
        model = AutoModelForQuestionAnswering.from_pretrained(path, dtype=torch.float32)
        kind = TaskType.QUESTION_ANS
    config = LoraConfig(task_type=kind, r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=RATE,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=get_peft_model(model, config), args=arguments, train_dataset=Encoded(rows), data_collator=collator
    )
    seconds = float(trainer.train().metrics["train_runtime"])
    return options.steps * options.batch_size / seconds


if __name__ == "__main__":
    sys.exit(main())
