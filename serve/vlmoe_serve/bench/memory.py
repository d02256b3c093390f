"""The most memory that this process has held while it did something."""

import gc
import resource
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb(run: Callable[[], object]) -> float:
    """Resident memory at its highest during the call, in MB of 10^6 bytes.

    Where the system cannot begin anew (it is Linux that can), the highest since the process began.
    """
    gc.collect()
    try:
        # 5: forget the highest so far
        _CLEAR.write_text("5")
    except OSError:
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    run()
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
