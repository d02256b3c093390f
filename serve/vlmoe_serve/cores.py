"""How many cores there are for this process: what it may run on, and what its container may spend."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def num_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may use, at least 1.

    A container's CPU limit is a quota of time and no set of cores: threads for all of the machine's cores would
    spend it in a fraction of each period and then stand still. Part of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup))))


def share(num_processes: int) -> int:
    """Threads for each of so many processes, if they are to have all cores; at least 1."""
    return max(1, num_cores() // num_processes)


def encode_threads(*, on_gpus: bool) -> int:
    """Threads of the front that decode pictures; more where all engines compute on GPUs, and leave it the cores."""
    return max(1, min(8 if on_gpus else 4, num_cores() // 2))


def _quota(cgroup: Path) -> float:
    """The limit in cores, of either version of control groups; infinite without one."""
    try:
        text = (cgroup / "cpu.max").read_text()
    except OSError:
        try:
            text = " ".join(
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    quota, period = text.split()
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
