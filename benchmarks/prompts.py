"""A prompt against a head, with LoRA and with full fine-tuning, from 16 examples a label, on a masked language model.

    python benchmarks/prompts.py [--data ../shared/data] [--model ../shared/models/minilm-mlm] [--shots 16] [--seeds 5]
    python benchmarks/prompts.py --templates    # how much the template matters on sst2
    python benchmarks/prompts.py --decoder      # SmolLM2: zero-shot, calibrated, and 16-shot with LoRA

Each seed draws its own training and validation set (`data.shots`), as LM-BFF does, and the runs are measured on the
first of test. Steps, batch and rates are the same for both formulations. A label that train has too few examples of
gives half of them to each of the two. Rows are kept as `methods.py` keeps them.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from few_shot import DRAWS, STEPS, TESTED, tested_row
from rows import Row, Rows, counted, ended, processor, quicker, table

from graftlm.core.errors import UserError
from graftlm.core.files import write_text

ROOT = Path(__file__).parents[1]
RATES = {"lora": 2e-3, "full": 1e-4}
FEELING = {"negative": "terrible", "positive": "great"}
KINDS = {
    "abbreviation": "abbreviation",
    "description": "description",
    "entity": "entity",
    "human": "human",
    "location": "location",
    "number": "number",
}
PROMPTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sst2": ("{text:shorten} It was {mask} .", FEELING),
    "cr": ("{text:shorten} It was {mask} .", FEELING),
    "trec": ("{mask} : {text:shorten}", KINDS),
    "snli": (
        "{premise:shorten} ? {mask} , {hypothesis}",
        {"entailment": "yes", "neutral": "maybe", "contradiction": "no"},
    ),
    "rte": ("{sentence1:shorten} ? {mask} , {sentence2}", {"entailment": "yes", "not_entailment": "no"}),
}
DECODER, ITS_RATE = "smollm2", 5e-4
ITS_KINDS = ("zero-shot", "calibrated zero-shot", "prompt + lora")
ITS_PROMPTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sst2": ("{text:shorten} It was {mask}", FEELING),
    "ag_news": (
        "{text:shorten} This article is about {mask}",
        {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"},
    ),
    "trec": ("{text:shorten} This question is about a {mask}", KINDS),
}
TEMPLATES = (
    "{text:shorten} It was {mask} .",
    "{text:shorten} All in all , it was {mask} .",
    "Just {mask} ! {text:shorten}",
    "{text:shorten} {mask}",
    "A {mask} one . {text:shorten}",
    "{text:shorten} {soft:8} {mask} .",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the datasets' folder")
    parser.add_argument("--model", default=str(ROOT.parent / "shared" / "models" / "minilm-mlm"))
    parser.add_argument("--sets", nargs="+", default=list(PROMPTS), choices=list(PROMPTS), metavar="SET")
    parser.add_argument("--shots", nargs="+", type=int, default=[16], choices=list(STEPS), help="examples a label")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--templates", action="store_true", help="several templates on sst2, with LoRA")
    parser.add_argument("--decoder", action="store_true", help="SmolLM2 on sst2, ag_news and trec")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of new runs; what is quicker here by default")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results" / "prompts")
    options = parser.parse_args()
    if options.decoder:
        options.model = DECODER
    elif not Path(options.model).is_dir():
        raise UserError(f"there is no model in {options.model}; --model names a masked language model's folder")
    options.to.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": Path(options.model).name, "tested": TESTED}
    rows = Rows(options.to.with_suffix(".jsonl"), settings, one, {"precision": options.precision or quicker()})
    for job in decoder_jobs(options.seeds) if options.decoder else jobs(options):
        rows.measured(job, options.data / job["set"], model=options.model)
    every = [row for row in rows.all if "words" in row["job"]]
    write_text(options.to.with_suffix(".md"), report(every))
    print(f"{options.to.with_suffix('.md')}: written; {rows.failed} runs failed")
    return 1 if rows.failed else 0


def jobs(options: argparse.Namespace) -> list[Row]:
    """All runs, seed after seed."""
    found: list[Row] = []
    for seed in range(options.seeds):
        for shots in options.shots:
            for name in ["sst2"] if options.templates else options.sets:
                template, words = PROMPTS[name]
                prompts = TEMPLATES if options.templates else (template, None)
                for prompt in prompts:
                    for method in ["lora"] if options.templates else list(RATES):
                        kind = "head" if prompt is None else "prompt"
                        job = {"set": name, "label": f"{kind} + {method}", "method": method, "rate": RATES[method]}
                        found.append(job | {"seed": seed, "shots": shots, "template": prompt, "words": words})
    return found


def decoder_jobs(seeds: int) -> list[Row]:
    """What was not trained once, and a run a seed of what was."""
    found: list[Row] = []
    for seed in range(seeds):
        for name, (template, words) in ITS_PROMPTS.items():
            for kind in ITS_KINDS:
                trained = kind == ITS_KINDS[-1]
                job = {"set": name, "label": kind, "method": "lora" if trained else None, "template": template}
                job |= {
                    "words": words,
                    "rate": ITS_RATE if trained else 0.0,
                    "shots": 16 if trained else 0,
                    "seed": seed,
                }
                found += [job] if trained or not seed else []
    return found


def asked(job: Row, data: Path) -> Row:
    """An untrained model, in this process: its accuracy."""
    import graftlm

    prompt = {"template": job["template"], "verbalizer": job["words"]}
    prompt |= {"calibration": "contextual"} if job["label"].startswith("calibrated") else {}
    found = graftlm.zero_shot(job["model_path"], prompt, data, precision=job["precision"])
    return {
        "validation": found.metrics["accuracy"],
        "score": found.metrics["accuracy"],
        "parameters": {},
        "seconds": round(found.seconds, 1),
        "processor": processor(),
    }


def one(job: Row) -> Row:
    """One run, in this process: its accuracy on the first of test."""
    import graftlm
    from graftlm.cli import hush

    hush()
    prompt: Row = {"prompt": {"template": job["template"], "verbalizer": job["words"]}} if job["template"] else {}
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "data"
        data.mkdir()
        for split in ("train", "validation", "test"):
            lines = (Path(job["folder"]) / f"{split}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
            kept = lines[:TESTED] if split == "test" else lines
            (data / f"{split}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
        if not job["shots"]:
            return asked(job, data)
        steps = STEPS[job["shots"]]
        draw = {"shots": job["shots"], "shots_seed": DRAWS[job["seed"]], "shots_rare": "half"}
        run = graftlm.fit(
            model=job["model_path"],
            data={"path": str(data), **draw},
            out=f"{work}/run",
            method={"name": job["method"]},
            training={
                "learning_rate": job["rate"],
                "batch_size": 8,
                "max_steps": steps,
                "eval_steps": steps // 4,
                "precision": job["precision"],
            },
            seed=job["seed"],
            **prompt,
        )
        tested = graftlm.evaluate(f"{work}/run", str(data), "test", precision=job["precision"])
    return tested_row(run, tested)


def report(rows: Sequence[Row]) -> str:
    """Tables of accuracies by shots, and of templates, over the draws."""
    parts = [
        "# Prompts and heads",
        f"Accuracy on the first {TESTED:,} of test, mean ± standard deviation over draws of the training set (how many "
        "in brackets; of a label with too few examples half are drawn); the weights that are best on a validation set "
        "of the same size. Made by `python benchmarks/prompts.py`; every run is a line of the `.jsonl` beside it.",
        f"Measured on {_all(rows, 'processor')}, in {_all(rows, 'precision')}.",
    ]
    spoken = [row for row in rows if row["job"]["model"] == DECODER]
    rows = [row for row in rows if row not in spoken]
    usual = [row for row in rows if row["job"]["template"] in (None, PROMPTS[row["job"]["set"]][0])]
    labels = sorted({row["job"]["label"] for row in usual})
    lines: list[list[str]] = []
    for name in PROMPTS:
        for shots in sorted({row["job"]["shots"] for row in usual if row["job"]["set"] == name}):
            own = [row for row in usual if (row["job"]["set"], row["job"]["shots"]) == (name, shots)]
            cells = [counted([row["score"] for row in own if row["job"]["label"] == label]) for label in labels]
            lines.append([name, str(shots), *cells])
    parts.append(table(["data", "a label", *labels], lines))
    lines = []
    for template in TEMPLATES:
        asked = (template, "sst2", 16, "lora")
        keys = ("template", "set", "shots", "method")
        scores = [row["score"] for row in rows if tuple(row["job"][key] for key in keys) == asked]
        lines += [[f"`{template}`", counted(scores)]] if scores else []
    parts.append(table(["template on sst2, 16 a label, LoRA", "accuracy"], lines))
    if spoken:
        lines = []
        for name in ITS_PROMPTS:
            own = [row for row in spoken if row["job"]["set"] == name]
            scores = [[row["score"] for row in own if row["job"]["label"] == kind] for kind in ITS_KINDS]
            lines.append([name, *map(counted, scores)])
        parts.append(table(["SmolLM2", *ITS_KINDS], lines))
    return "\n\n".join(parts) + "\n"


def _all(rows: Sequence[Row], name: str) -> str:
    return " and ".join(sorted({row[name] for row in rows}))


if __name__ == "__main__":
    ended(main)
