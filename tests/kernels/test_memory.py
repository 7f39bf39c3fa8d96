"""What a process keeps between steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graftlm.kernels import linear

MANY_LENGTHS = """
import psutil, torch
from graftlm.kernels import current, frozen
current()
made, process = frozen(torch.randn(384, 384), "onednn"), psutil.Process()
made.forward(torch.randn(1, 384), None)
before = process.memory_info().rss
for rows in range(200, 400):
    made.forward(torch.randn(rows, 384), None)
print(process.memory_info().rss - before)
"""


@pytest.mark.skipif("onednn" not in linear.kernels(torch.zeros(8, 8)), reason="this torch has no oneDNN")
def test_products_of_many_lengths_leave_little_behind() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_LENGTHS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 20  # 200 kept ones take more


PAGES = """
import resource
import graftlm, torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(10):
    torch.zeros(4 << 20)  # 16 MiB
print(faults() - before)
"""
GIVEN = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not GIVEN.exists() or "[madvise]" not in GIVEN.read_text(), reason="this kernel gives large pages to all or to none"
)
def test_large_tensors_lie_on_large_pages_unless_the_environment_says_otherwise() -> None:
    found: dict[str, int] = {}
    for asked in ("", "0"):
        environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
        environment |= {"THP_MEM_ALLOC_ENABLE": asked} if asked else {}
        done = subprocess.run(
            [sys.executable, "-c", PAGES], capture_output=True, text=True, check=True, env=environment
        )
        found[asked] = int(done.stdout)
    assert found[""] < found["0"] / 2
