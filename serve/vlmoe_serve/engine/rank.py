"""Rank 1 and up of a model over several processes: run what rank 0 sends until it is gone.

python -P -m vlmoe_serve.engine.rank PARENT_PID SOCKET_FD ARENA_FD PORT DESCRIPTORS
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import cast

from vlmoe_kernels.collectives.shared_memory import Descriptors
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.duty import do_duty
from vlmoe_serve.engine.lifetime import die_with
from vlmoe_serve.engine.loading import join_host
from vlmoe_serve.engine.protocol import Batch, FromRank, Jobs, Load, ToRank
from vlmoe_serve.engine.transport import ArenaView


class LocalBoss:
    """Rank 0 on the same host: messages over the inherited socket, arrays in shared memory."""

    def __init__(self, sock: socket.socket, arena: ArenaView) -> None:
        self._socket = sock
        self._arena = arena

    def hear(self) -> ToRank:
        """See `Boss`. The arrays of jobs are gone after the next call."""
        asked = protocol.receive(self._socket)
        if isinstance(asked, Batch):
            jobs = tuple(self._arena.read(asked.jobs, asked.arena_bytes))
            return Jobs(jobs, asked.traced, asked.orders, asked.threads)
        return cast(ToRank, asked)

    def tell(self, message: FromRank) -> None:
        """See `Boss`."""
        self._socket.sendall(protocol.frame(message))


def main(argv: Sequence[str]) -> int:
    """Serve rank 0 at the other end of the inherited socket."""
    parent_pid, sock_fd, arena_fd, port = map(int, argv[:4])
    die_with(parent_pid)
    with socket.socket(fileno=sock_fd) as sock:
        try:
            return _serve(sock, ArenaView(arena_fd), port, _descriptors(argv[4]))
        except (EOFError, OSError):
            os._exit(0)
        except Exception:
            # The other ranks wait for us in an exchange: the end of this process is what tells them.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def _serve(sock: socket.socket, arena: ArenaView, port: int, descriptors: Descriptors) -> int:
    load = protocol.receive(sock)
    assert isinstance(load, Load)
    do_duty(LocalBoss(sock, arena), load.options, join_host(load.options, descriptors, port))
    return 1


def _descriptors(text: str) -> Descriptors:
    fields = json.loads(text)
    return Descriptors(
        rank=fields["rank"],
        areas=tuple(tuple(area) for area in fields["areas"]),
        inbox=tuple(fields["inbox"]),
        outbox=tuple(fields["outbox"]),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
