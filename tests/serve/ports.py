"""Ports for those who must know one before anybody listens on it."""

import contextlib
import random
import socket
from pathlib import Path


def free_port() -> int:
    """One on which nobody listens, and that no outgoing connection is given before somebody does."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(min(20_000, first_given - 1), first_given)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
