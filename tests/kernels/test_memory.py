"""What a process keeps between steps."""

import subprocess
import sys

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
