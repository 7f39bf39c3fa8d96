"""Every test runs offline, on one thread, from a fixed seed."""

import os
import re
from collections import defaultdict

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tiny import CONFIGS, METHODS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the tests that go over families covered."""
    families: dict[str, set[str]] = defaultdict(set)
    methods: dict[str, set[str]] = defaultdict(set)
    for report in terminalreporter.stats.get("passed", []):
        match = re.fullmatch(r".*::test_(\w+)\[(.+)\]", report.nodeid)
        words = match[2].split("-") if match else []
        own = [family for family in CONFIGS if _stands_in(family.split("-"), words)]
        if match and own:
            family = max(own, key=len)
            families[match[1]].add(family)
            rest = match[2].replace(family, "").strip("-")
            methods[match[1]] |= {rest} & METHODS.keys()
    if not families:
        return
    terminalreporter.section("covered")
    for test in sorted(families):
        missing = [family for family in CONFIGS if family not in families[test]]
        left = f" (not {', '.join(missing)})" if 0 < len(missing) <= 4 else ""
        by = f" × {len(methods[test])} methods" if methods[test] else ""
        terminalreporter.write_line(
            f"{test.replace('_', ' ')}: {len(families[test])} of {len(CONFIGS)} families{left}{by}"
        )


def _stands_in(words: list[str], among: list[str]) -> bool:
    size = len(words)
    return any(among[place : place + size] == words for place in range(len(among) - size + 1))
