"""Accuracy on real data: `sst2` with MiniLM (3 seeds), and 1,000 examples of `ag_news` with SmolLM2.

python benchmarks/accuracy.py sst2 --data DIR_OF_DATASETS [--seeds 3]
python benchmarks/accuracy.py ag_news --data DIR_OF_DATASETS
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import graftlm

JOBS = {
    "sst2": {
        "model": "minilm",
        "method": {"name": "lora", "rank": 8},
        "training": {"learning_rate": 1e-3, "batch_size": 32, "epochs": 2},
    },
    "ag_news": {
        "model": "smollm2",
        "method": {"name": "lora", "rank": 8},
        "training": {"learning_rate": 1e-3, "batch_size": 16, "epochs": 1, "max_length": 96},
        "limit": {"train": 1000},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the dataset's folder")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    job = dict(JOBS[options.job])
    data = {"path": str(options.data / options.job), "limit": job.pop("limit", {})}
    scores: list[float] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = graftlm.fit(data=data, out=f"{folder}/run", seed=seed, **job)
            test = graftlm.evaluate(f"{folder}/run", data["path"], "test")
        scores.append(run.metrics["accuracy"])
        timing = run.record["timing"]
        print(
            f"seed {seed}: validation {run.metrics['accuracy']:.4f}, test {test.metrics['accuracy']:.4f}, "
            f"{timing['train_seconds']:.0f} s training, {timing['train_examples_per_second']:.0f} examples a second, "
            f"peak {run.record['peak_memory_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    print(f"{options.job}: validation accuracy {statistics.mean(scores):.4f} ± {spread:.4f} over {len(scores)} seeds")


if __name__ == "__main__":
    main()
