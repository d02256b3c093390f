"""What the C library does with freed memory, seen from a process of its own: it is a setting of the process."""

import os
import platform
import subprocess
import sys

import pytest

# faults of pages while four blocks are allocated, written and freed, again and again
CHILD = """
import resource, sys, torch
from vlmoe_kernels.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def churn():
    blocks = [torch.ones(4_000_000) for _ in range(4)]
# until the heap has the size that it needs with its gaps
for _ in range(12):
    churn()
before = faults()
for _ in range(10):
    churn()
print(faults() - before)
"""
PAGES = 4 * 4_000_000 * 4 // 4096


def faults(how: str) -> int:
    # by itself the library learns from what it sees freed, not always the same
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    command = [sys.executable, "-c", CHILD, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such setting")
def test_pages_are_mapped_once() -> None:
    assert faults("told otherwise") > 9 * PAGES
    assert faults("kept") < PAGES


GIVES_BACK = """
import torch
from pathlib import Path
from vlmoe_kernels.heap import give_back_freed_memory, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
keep_freed_memory()
blocks = [torch.ones(4_000_000) for _ in range(8)]
# what lies behind them keeps the heap from ending before it
behind = torch.ones(40_000)
blocks.clear()
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such call")
def test_what_is_free_is_given_back_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", GIVES_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1.8 * PAGES
