"""What the C library does with freed memory, seen from a process of its own: it is a setting of the process."""

import platform
import subprocess
import sys

import pytest

# faults of pages while 40 blocks of 24 MB are allocated, written and freed, one after the other
CHILD = """
import resource, sys, torch
from vlmoe_kernels.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def churn():
    # two at a time: the C library learns to keep one
    a, b = torch.ones(6_000_000), torch.ones(6_000_000)
churn()
before = faults()
for _ in range(20):
    churn()
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library than glibc has no such setting"
)
def test_pages_are_mapped_once() -> None:
    pages = 2 * 6_000_000 * 4 // 4096
    assert faults("left alone") > 3 * pages
    assert faults("kept") < pages
