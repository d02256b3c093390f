"""The other ranks of a group, as rank 0 reaches them.

    OtherRank --Channel--> a rank: RankProcess over a LocalChannel on this host, links to those of other nodes

A rank of this host that ends takes this process with it.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from vlmoe_kernels.collectives.shared_memory import Descriptors
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.orders import MoveState
from vlmoe_serve.engine.protocol import Batch, FromRank, Jobs, Load, LoadFailed, Ping, Pong, RankDone, ToRank
from vlmoe_serve.engine.transport import Arena
from vlmoe_serve.placement.trace_format import Rows

_RANK = "vlmoe_serve.engine.rank"
# of silence, after which the log names the rank; to end it is for the watchdog in front
_LONG_S = 10.0


class Channel(Protocol):
    """How rank 0 reaches another rank."""

    def fileno(self) -> int:
        """To wait for it."""
        ...

    def tell(self, message: ToRank) -> None:
        """Send it."""
        ...

    def hear(self) -> FromRank:
        """Its next message.

        Raises:
            EOFError, OSError: it is gone.
        """
        ...


class OtherRank:
    """One of the other ranks, seen from rank 0. name: what messages call it."""

    def __init__(self, name: str, channel: Channel) -> None:
        # when it answered last: resident memory, and how far it was with moving experts
        self.memory_bytes = 0
        self.moves = MoveState()
        self._name = name
        self._channel = channel

    def wait_until_loaded(self) -> None:
        """Raises ValueError with the rank's own reason."""
        answer = self._hear()
        if isinstance(answer, LoadFailed):
            raise ValueError(answer.reason)
        assert isinstance(answer, RankDone), answer
        self.memory_bytes = answer.memory_bytes

    def send(self, jobs: Jobs) -> None:
        """Hand it its part of a batch."""
        self._channel.tell(jobs)

    def done(self) -> tuple[list[npt.NDArray[np.float32]], Rows | None]:
        """What it made of the part it was sent last, and what its routers chose."""
        answer = self._hear()
        assert isinstance(answer, RankDone), answer
        self.memory_bytes, self.moves = answer.memory_bytes, answer.moves or MoveState()
        return [np.frombuffer(block, np.float32) for block in answer.outputs], answer.rows

    def ping(self) -> None:
        """Ask whether it lives."""
        self._channel.tell(Ping(0))

    def wait_for_pong(self) -> None:
        """Wait, however long it takes, and name the rank when it takes long."""
        while not select.select([self._channel], [], [], _LONG_S)[0]:
            print(f"{self._name} has not answered for {_LONG_S:g} s", file=sys.stderr, flush=True)
        answer = self._hear()
        assert isinstance(answer, Pong), answer

    def _hear(self) -> FromRank:
        try:
            return self._channel.hear()
        except (EOFError, OSError):
            raise RuntimeError(f"{self._name} ended") from None


class LocalChannel:
    """To a rank of this host: messages over a socket pair, arrays through shared memory."""

    def __init__(self) -> None:
        self.arena = Arena()
        self._socket, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        """See `Channel`."""
        return self._socket.fileno()

    def tell(self, message: ToRank | Load) -> None:
        """See `Channel`."""
        if isinstance(message, Jobs):
            refs, size = self.arena.write(message.jobs)
            self._socket.sendall(
                protocol.frame(Batch(0, 0, size, refs, message.traced, message.orders, message.threads))
            )
        else:
            self._socket.sendall(protocol.frame(message))

    def hear(self) -> FromRank:
        """See `Channel`."""
        return cast(FromRank, protocol.receive(self._socket))


class RankProcess(OtherRank):
    """A rank of this host, and its process."""

    def __init__(self, rank: int, options: EngineOptions, descriptors: Descriptors, port: int) -> None:
        channel = LocalChannel()
        super().__init__(f"rank {rank}", channel)
        fds = [channel.theirs.fileno(), channel.arena.fd]
        with channel.theirs:
            # in the thread that lives as long as this process: Linux ends a child with its maker thread
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", _RANK, str(os.getpid())),
                    *(*map(str, fds), str(port), json.dumps(asdict(descriptors))),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[*fds, *descriptors.all],
            )
        for fd in (*descriptors.inbox, *descriptors.outbox):
            if fd >= 0:
                os.close(fd)
        channel.tell(Load("", options))

    def wait_until_loaded(self) -> None:
        """See `OtherRank`."""
        super().wait_until_loaded()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End with it, also when nobody waits for its answer: the supervisor is to start the group again at once."""
        code = self._process.wait()
        print(f"{self._name} ended with code {code}: all ranks start again", file=sys.stderr, flush=True)
        os._exit(1)
