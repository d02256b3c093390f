"""Rank 1 and up of a model over several processes: run what rank 0 sends until it is gone.

python -P -m vlmoe_serve.engine.rank PARENT_PID SOCKET_FD ARENA_FD PORT DESCRIPTORS
"""

import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence

from vlmoe_kernels.collectives.shared_memory import Descriptors
from vlmoe_model.packing import Packed
from vlmoe_model.routing import Routing
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.lifetime import die_with
from vlmoe_serve.engine.meter import resident_bytes
from vlmoe_serve.engine.protocol import Batch, Load, LoadFailed, Ping, Pong, RankDone
from vlmoe_serve.engine.ranks import load_share
from vlmoe_serve.engine.tracing import rows_of
from vlmoe_serve.engine.transport import ArenaView
from vlmoe_serve.placement.trace_format import Rows


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
    try:
        runner = load_share(load.options, descriptors, port)
    except (ValueError, OSError) as error:
        sock.sendall(protocol.frame(LoadFailed(" ".join(str(error).split()))))
        return 1
    gc.collect()
    gc.freeze()
    sock.sendall(protocol.frame(RankDone((), resident_bytes())))
    while True:
        batch = protocol.receive(sock)
        if isinstance(batch, Ping):
            sock.sendall(protocol.frame(Pong(batch.id)))
            continue
        assert isinstance(batch, Batch)
        sock.sendall(protocol.frame(_run(runner, arena, batch, descriptors.rank)))


def _run(runner: Runner, arena: ArenaView, batch: Batch, rank: int) -> RankDone:
    rows: list[Rows] = []

    def observe(packed: Packed, log: Sequence[Routing]) -> None:
        rows.append(rows_of(packed, log, runner.config, 0, 0, 0, rank))

    outputs = runner.run(arena.read(batch.jobs, batch.arena_bytes), observe if batch.traced else None)
    blocks = tuple(output.tobytes() for output in outputs)
    return RankDone(blocks, resident_bytes(), rows[0] if rows else None)


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
