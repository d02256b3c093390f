"""A process that must not outlive the one that started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent_pid: int) -> None:
    """Be killed when the parent ends, where the system offers that (Linux); signals are the parent's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    be_killed_with(parent_pid)


def be_killed_with(parent_pid: int) -> None:
    """Be killed when the parent ends, where the system offers that (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have gone before the request took effect; then nobody will signal us.
        if os.getppid() != parent_pid:
            os._exit(0)
