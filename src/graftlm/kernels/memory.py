"""What the process keeps for the next step: freed memory, and oneDNN's compiled products."""

import ctypes
import os
import sys

TRIM, MMAP = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
LARGEST, KEPT = 4 << 20, 32 << 20  # bytes: larger blocks are given back at once, since they would leave wide gaps
PRODUCTS = 16  # a step's: three shapes of weights, forward and backward, at one number of tokens or two
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's own, and torch's in front of it


def keep_few_products() -> None:
    """Has oneDNN keep 16 compiled products and not 1,024, unless the user's environment says how many.

    It compiles one for each number of tokens, of more than half a megabyte, and texts have many lengths. Both caches
    ask the environment once, before the first product.
    """
    for cache in CACHES:
        os.environ.setdefault(cache, str(PRODUCTS))


def keep_freed() -> bool:
    """Has this process keep freed blocks of up to 4 MiB, since giving them back and asking anew costs page faults.

    False where the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(MMAP, LARGEST) == 1 == mallopt(TRIM, KEPT)
