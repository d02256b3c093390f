"""A run that is told to end takes the servers that it started with it."""

import signal
import sys


def exit_on_sigterm() -> None:
    """SIGTERM, as `timeout` sends it, becomes an exit that passes through every `finally`."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
