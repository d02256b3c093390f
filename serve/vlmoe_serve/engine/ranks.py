"""One model over several processes: the engine process is rank 0 and starts the others.

    rank 0: share out the jobs -> send each rank its own -> run its own -> collect
    rank n: (rank.py) receive -> run -> answer

Sequences are shared out by their tokens; experts are reached through `vlmoe_kernels.collectives`. A rank that fails
ends the whole group, this process included: the supervisor starts it again and runs the batch again. A rank never
outlives rank 0.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_kernels.collectives.shared_memory import Descriptors, SharedMemoryGroup, make_descriptors
from vlmoe_model.config import ModelConfig
from vlmoe_model.feed_forward import ObserveLoad
from vlmoe_model.inputs import Job
from vlmoe_model.packing import Packed
from vlmoe_model.routing import Routing
from vlmoe_model.runner import Dtype, Runner, choose_device
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.expert_shares import holdings_of, split_by_counts
from vlmoe_serve.engine.meter import resident_bytes
from vlmoe_serve.engine.protocol import Batch, FromRank, Load, LoadFailed, Ping, Pong, RankDone
from vlmoe_serve.engine.tracing import RoutingTracer, rows_of
from vlmoe_serve.engine.transport import Arena
from vlmoe_serve.placement.trace_format import Rows

_RANK = "vlmoe_serve.engine.rank"
# of silence, after which the log names the rank; to end it is for the watchdog in front
_LONG_S = 10.0


class RankProcess:
    """One of the other ranks, seen from rank 0."""

    def __init__(self, rank: int, options: EngineOptions, descriptors: Descriptors, port: int) -> None:
        self._rank = rank
        # resident, when it answered last
        self.memory_bytes = 0
        self._arena = Arena()
        self._socket, theirs = socket.socketpair()
        fds = [theirs.fileno(), self._arena.fd]
        with theirs:
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
        self._socket.sendall(protocol.frame(Load("", options)))

    def wait_until_loaded(self) -> None:
        """Raises ValueError with the rank's own reason."""
        answer = self._receive()
        if isinstance(answer, LoadFailed):
            raise ValueError(answer.reason)
        assert isinstance(answer, RankDone), answer
        self.memory_bytes = answer.memory_bytes
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End with it, also when nobody waits for its answer: the supervisor is to start the group again at once."""
        code = self._process.wait()
        print(f"rank {self._rank} ended with code {code}: all ranks start again", file=sys.stderr, flush=True)
        os._exit(1)

    def send(self, jobs: Sequence[Job], *, traced: bool = False) -> None:
        """Hand it its part of a batch. traced: it is to tell what its routers choose."""
        refs, size = self._arena.write(jobs)
        self._socket.sendall(protocol.frame(Batch(0, 0, size, refs, traced)))

    def done(self) -> tuple[list[npt.NDArray[np.float32]], Rows | None]:
        """What it made of the part it was sent last, and what its routers chose."""
        answer = self._receive()
        assert isinstance(answer, RankDone), answer
        self.memory_bytes = answer.memory_bytes
        return [np.frombuffer(block, np.float32) for block in answer.outputs], answer.rows

    def ping(self) -> None:
        """Ask whether it lives."""
        self._socket.sendall(protocol.frame(Ping(0)))

    def wait_for_pong(self) -> None:
        """Wait, however long it takes, and name the rank when it takes long."""
        while not select.select([self._socket], [], [], _LONG_S)[0]:
            print(f"rank {self._rank} has not answered for {_LONG_S:g} s", file=sys.stderr, flush=True)
        answer = self._receive()
        assert isinstance(answer, Pong), answer

    def _receive(self) -> FromRank:
        try:
            return cast(FromRank, protocol.receive(self._socket))
        except (EOFError, OSError):
            raise RuntimeError(f"rank {self._rank} ended") from None


class Ranks:
    """A `Runner` whose experts are shared out over several processes."""

    def __init__(self, runner: Runner, others: Sequence[RankProcess]) -> None:
        self._runner = runner
        self._others = others
        self.num_ranks = 1 + len(others)
        self.config: ModelConfig = runner.config
        self.device, self.dtype, self.backend = runner.device, runner.dtype, runner.backend
        self.num_parameters, self.logit_scale = runner.num_parameters, runner.logit_scale

    def run(self, jobs: Sequence[Job], tracer: RoutingTracer | None = None) -> list[npt.NDArray[np.float32]]:
        """See `Runner.run`. What goes wrong ends the process: the ranks are out of step.

        tracer: told what the routers of all ranks chose.
        """
        shares = share_out(jobs, 1 + len(self._others), self.config.patch_size)
        rows: list[Rows | None] = []

        def observe(packed: Packed, log: Sequence[Routing]) -> None:
            rows.append(rows_of(packed, log, self.config, 0, 0, 0))

        try:
            for other, share in zip(self._others, shares[1:], strict=True):
                other.send([jobs[i] for i in share], traced=tracer is not None)
            mine = self._runner.run([jobs[i] for i in shares[0]], None if tracer is None else observe)
            done = [(mine, rows[0] if rows else None), *(other.done() for other in self._others)]
        except Exception as error:
            raise SystemExit(f"the ranks have to start again: {type(error).__name__}: {error}") from error
        if tracer is not None:
            tracer.record([(share, of_rank) for share, (_, of_rank) in zip(shares, done, strict=True)])
        results: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(jobs)
        for share, (outputs, _) in zip(shares, done, strict=True):
            for index, output in zip(share, outputs, strict=True):
                results[index] = output
        return results

    def observe_load(self, observe: ObserveLoad) -> None:
        """See `Runner.observe_load`: rank 0 learns the counts of all ranks."""
        self._runner.observe_load(observe)

    @property
    def memory_G(self) -> tuple[int, ...]:
        """Resident bytes of every rank's process."""
        return (resident_bytes(), *(other.memory_bytes for other in self._others))

    def beat(self) -> None:
        """Hear of every rank. A rank that hangs makes this hang, and the watchdog in front ends them all."""
        for other in self._others:
            other.ping()
        for other in self._others:
            other.wait_for_pong()


def load(options: EngineOptions) -> Ranks:
    """Start the other ranks and load, all at the same time.

    Raises:
        ValueError: a bad checkpoint, or a placement for another model.
    """
    group = make_descriptors(options.ranks)
    port = free_port()
    others = [RankProcess(rank, options, group[rank], port) for rank in range(1, options.ranks)]
    runner = load_share(options, group[0], port)
    for other in others:
        other.wait_until_loaded()
    return Ranks(runner, others)


def load_share(options: EngineOptions, descriptors: Descriptors, port: int) -> Runner:
    """This rank's part of the model.

    Raises:
        ValueError: a bad checkpoint, or a placement for another model.
    """
    return Runner.load(
        options.path,
        device=options.device,
        dtype=cast(Dtype, options.dtype),
        threads=options.threads,
        group=_join(options, descriptors, port),
        holdings=None if options.placement is None else holdings_of(options.placement),
        split=split_by_counts(options.ranks),
        mode=options.mode,
    )


def _join(options: EngineOptions, descriptors: Descriptors, port: int) -> Group:
    if choose_device(options.device) == "cpu":
        return SharedMemoryGroup(descriptors)
    torch.cuda.set_device(descriptors.rank)
    dist.init_process_group(
        "nccl", f"tcp://127.0.0.1:{port}", rank=descriptors.rank, world_size=options.ranks
    )
    return DistributedGroup()


def share_out(jobs: Sequence[Job], num_ranks: int, patch_size: int) -> list[list[int]]:
    """Indices of the jobs of each rank: the largest first, each to the rank that has least; in order within a rank."""
    tokens = [Work.of(job, patch_size).tokens for job in jobs]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for index in sorted(range(len(jobs)), key=lambda i: -tokens[i]):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += tokens[index]
    return [sorted(share) for share in shares]


def free_port() -> int:
    """A port that nobody listens on, for the ranks' rendezvous on this host."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
