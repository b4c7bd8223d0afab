"""The C library's heap: large tensors that come and go in every step, without new pages every time."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(limit: int = 1 << 30) -> bool:
    """Let glibc keep what is freed for the next tensor; returns whether it does.

    glibc fetches blocks above 32 MB from the system and hands them back when they are freed, so that every training
    step has its pages zeroed anew: 20 % of an EF-VLA step with the tiny encoder. Afterwards up to `limit` bytes stay
    with the process. Does nothing where the C library is another, or where the environment sets its own thresholds.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _SETTINGS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(what, limit) == 1 for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
