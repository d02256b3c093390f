"""Start the rank processes of this node, for rank 0 and for the agents of other nodes alike."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.protocol import Load

_RANK = "vlmoe_serve.engine.nodes.rank"


class LocalRanks:
    """Processes that end together.

    Args:
        options: of the engine.
        ranks: which.
        admission: of this node.
        on_end: told once, in another thread, when the first has ended by itself: which, and its exit code.
    """

    def __init__(
        self,
        options: EngineOptions,
        ranks: Sequence[int],
        admission: str,
        on_end: Callable[[int, int], None],
    ) -> None:
        self._on_end = on_end
        self._ended = threading.Lock()
        self._processes = [_start(options, rank, admission) for rank in ranks]
        self.pids = [process.pid for process in self._processes]
        for rank, process in zip(ranks, self._processes, strict=True):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def kill(self) -> None:
        """End them, and wait until they have."""
        self._ended.acquire(blocking=False)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        if self._ended.acquire(blocking=False):
            self._on_end(rank, code)


def _start(options: EngineOptions, rank: int, admission: str) -> "subprocess.Popen[bytes]":
    """Call it in a thread that lives as long as the rank is to: Linux ends a child with its maker thread."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _RANK, str(os.getpid()), str(theirs.fileno()), str(rank), admission],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # a Ctrl-C in the terminal is for the front to act on
            start_new_session=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(options.threads),
                "MKL_NUM_THREADS": str(options.threads),
            },
        )
        ours.sendall(protocol.frame(Load("", options)))
    return process
