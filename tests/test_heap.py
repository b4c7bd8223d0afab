"""Freed memory stays with the process where the C library is glibc, and the user's own settings win."""

import resource
import subprocess
import sys

from fovea import heap

TOUCH = """
import resource, torch
from fovea.heap import keep_freed_memory
assert keep_freed_memory()
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([touch() for _ in range(24)][-1])  # the heap settles after a few
"""


def test_a_large_tensor_reuses_the_pages_of_the_one_before():
    done = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, text=True, check=True)
    assert int(done.stdout) < (64 << 20) // resource.getpagesize() // 10


def test_the_environment_decides_where_it_says_something(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert heap.keep_freed_memory() is False
