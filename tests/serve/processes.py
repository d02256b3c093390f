"""Processes that a server or a test has started. Threads and processes may end while they are looked at."""

import contextlib
from pathlib import Path

# a file of a thread that ends before it is opened, and before it is read
_GONE = (FileNotFoundError, ProcessLookupError)


def children(pid: int) -> list[int]:
    """Those that a process has started, in any of its threads; none if it has ended."""
    found: list[int] = []
    with contextlib.suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(*_GONE):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """They, and those that they have started."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def command(pid: int) -> bytes:
    """How it was started; nothing if it has ended."""
    with contextlib.suppress(*_GONE):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
