"""Waiting for what has to come, on machines that others use too: for facts, never for times."""

import time
from collections.abc import Callable
from pathlib import Path

# Far more than anything needs; whoever waits this long has failed.
PATIENCE_S = 300.0


def wait_until(condition: Callable[[], object], what: str = "it did not happen in time") -> None:
    """Return as soon as the condition holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; whoever adopted it may be slow to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def named_memory(pid: int | str = "self") -> set[str]:
    """Files of /dev/shm that a process has mapped: what could outlive it."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line}
