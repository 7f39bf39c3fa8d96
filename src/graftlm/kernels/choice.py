"""Which kernel computes what on this machine: measured once, kept in a file, the same ever after.

`~/.cache/graftlm/kernels.json` holds what was found, by processor, torch and threads; it may be deleted at any time.
Runs record what they were computed with, and a resume takes that, so that its numbers are the same to the last bit.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import Unwritable
from graftlm.core.files import write_json
from graftlm.kernels import attention, linear, memory

ROUNDS = 5
GAIN = 1.1  # how much quicker than torch's own a kernel must be
PRECISIONS, SLOWER, SAMPLE = ("bfloat16", "float32"), 1.2, 1024  # how much longer counts, and rows to see it by


def default_file() -> Path:
    """Where the choices are kept."""
    return Path.home() / ".cache" / "graftlm" / "kernels.json"


class Choices:
    """Kernels by case, as {"attention.float32.32.64.train": "products"}; those that are missing are measured.

    `found` is as the file has it; what is taken from an earlier run goes before it and never into the file.
    `asked` gathers the cases that were asked for, and what was answered.
    """

    def __init__(self, file: Path | None = None):
        self._file = file
        self._machine = f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
        self.found: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def linear(self, weight: Tensor, pack: bool = False) -> str:
        """The kernel for products with a frozen weight (d_out d_in); `pack` allows packed forms of it."""
        known = [kernel for kernel in linear.kernels(weight) if pack or kernel != "packed"]
        shape = "×".join(map(str, weight.shape))
        case = f"linear.{_name(weight.dtype)}.{shape}{'.pack' if pack else ''}"
        return self._choose(case, known, lambda kernel: linear.probe(weight, kernel), GAIN)

    def attention(self, query: Tensor, key: Tensor) -> str:
        """The kernel for attention from query (b h t d) to key (b h s d)."""
        if query.device.type != "cpu" or query.shape[2] == 1:
            return "torch"
        train = torch.is_grad_enabled() and key.requires_grad
        return self.attention_of(query.dtype, query.shape[3], key.shape[2], train)

    def attention_of(self, dtype: torch.dtype, width: int, length: int, train: bool) -> str:
        """The kernel for heads of one width over texts of up to a length, with gradients if `train`."""
        length = attention.bucket(length)
        if length > attention.LONGEST or dtype not in linear.TOLERANCE:
            return "torch"
        case = f"attention.{_name(dtype)}.{width}.{length}.{'train' if train else 'read'}"
        return self._choose(
            case, attention.KERNELS, lambda kernel: attention.probe(kernel, dtype, width, length, train), GAIN
        )

    def precision(self, weight: Tensor) -> str:
        """ "float32" where products with a weight (d_out d_in) take clearly longer in bfloat16, else "bfloat16"."""
        x = torch.zeros(SAMPLE, weight.shape[1])

        def made(name: str) -> Callable[[], None]:
            own, many = (tensor.detach().to(getattr(torch, name)) for tensor in (weight, x))

            def product() -> None:
                torch.nn.functional.linear(many, own)

            return product

        return self._choose(f"precision.{'×'.join(map(str, weight.shape))}", PRECISIONS, made, SLOWER)

    def prepare(self, dtype: torch.dtype, width: int, longest: int) -> None:
        """Measures attention up to a length, so that nothing is measured later."""
        length = 1
        while length < 2 * longest and length <= attention.LONGEST:
            for train in (True, False):
                self.attention_of(dtype, width, min(length, longest), train)
            length *= 2

    def _choose(self, case: str, known: Sequence[str], made: Callable[[str], Callable[[], None]], gain: float) -> str:
        """The quickest of `known`, or the first of them where no other is quicker by `gain`."""
        if len(known) == 1:
            return known[0]
        taken = self._taken.get(case, "")
        self.asked[case] = taken if taken in known else self._quickest(case, known, made, gain)
        return self.asked[case]

    def _quickest(self, case: str, known: Sequence[str], made: Callable[[str], Callable[[], None]], gain: float) -> str:
        if self.found.get(case) not in known:
            self._join()  # another process may have measured it since
        if self.found.get(case) not in known:
            with torch.random.fork_rng(devices=[]):
                seconds = _seconds({kernel: made(kernel) for kernel in known})
            best = min(known[1:], key=lambda kernel: seconds[kernel])
            self.found[case] = best if seconds[known[0]] > gain * seconds[best] else known[0]
            self._join()
        return self.found[case]

    def take(self, found: Mapping[str, str]) -> None:
        """Computes these cases as an earlier run did, and no others."""
        self._taken = dict(found)

    def _join(self) -> None:
        """Shares what is found with the file; what stands there first is everybody's."""
        if self._file is None:
            return
        kept: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            kept = json.loads(self._file.read_text(encoding="utf-8"))
        kept = kept if isinstance(kept, dict) else {}
        theirs = kept.get(self._machine)
        theirs = {str(case): str(kernel) for case, kernel in theirs.items()} if isinstance(theirs, dict) else {}
        self.found |= theirs
        if self.found != theirs:
            kept[self._machine] = dict(self.found)
            with suppress(OSError, Unwritable):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._file, kept)


def _seconds(calls: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """The median seconds of each call; they take turns, after one round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(own) for name, own in seconds.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor() or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


_current: list[Choices] = []


def current() -> Choices:
    """This process's choices, those of earlier ones included."""
    if not _current:
        memory.keep_few_products()
        _current.append(Choices(default_file()))
    return _current[0]
