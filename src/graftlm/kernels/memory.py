"""Memory that the C library keeps for the next step: giving large tensors back and asking anew costs page faults."""

import ctypes
import sys

TRIM, MMAP = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
LARGEST = 1 << 30  # of a block that is kept


def keep_freed() -> bool:
    """Has this process keep freed blocks of up to 1 GiB; false where the C library is not glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, LARGEST) == 1 for option in (MMAP, TRIM))
