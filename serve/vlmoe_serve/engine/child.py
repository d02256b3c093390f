"""One life of an engine process, seen from the front.

    spawn -> handshake (Load -> Ready) -> run, run, ... -> listen returns -> bury

Batches are answered in the order they were sent, so the oldest unanswered one is what the process is
computing: it is the suspect when the process dies, and it is the one the watchdog times. An idle process is pinged, so
that a hang is found before somebody needs it.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmoe_model.inputs import Job
from vlmoe_serve.cores import num_cores
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.failures import BatchFailed, EngineDied, EngineStartError
from vlmoe_serve.engine.protocol import (
    Batch,
    BatchDone,
    BatchRaised,
    EngineInfo,
    Load,
    LoadFailed,
    Ping,
    Pong,
    Ready,
)
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.transport import Arena

# One batch runs, one is prepared: two in the child at most, each with its own memory.
DEPTH = 2
_WORKER = "vlmoe_serve.engine.worker"
_EXIT_GRACE_S = 2.0
_POLL_S = 0.005


@dataclass(slots=True)
class _Flight:
    id: int
    # None: nobody waits for the answer to a ping.
    answer: asyncio.Future[BatchDone] | None
    # When the process could take it up: sent, and the one before it answered.
    head_since_s: float | None = None


class Child:
    """A running engine process. Make it with `spawn`, end it with `bury`."""

    def __init__(self, process: "subprocess.Popen[bytes]", arenas: Sequence[Arena]) -> None:
        self.pid = process.pid
        self.alive = True
        self._process = process
        self._arenas = arenas
        self._free = list(range(len(arenas)))
        self._slots = asyncio.Semaphore(len(arenas))
        self._flights: deque[_Flight] = deque()
        self._ids = itertools.count()
        self._heard_s = time.monotonic()
        self._why_killed: str | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @classmethod
    async def spawn(cls, threads: int, ranks: int = 1) -> "Child":
        """Start the process. Call it in the loop's thread: Linux ends a child with its maker thread.

        threads: of each of its ranks.
        """
        ours, theirs = socket.socketpair()
        arenas = [Arena() for _ in range(DEPTH)]
        try:
            fds = [theirs.fileno(), *(arena.fd for arena in arenas)]
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER, str(os.getpid()), *map(str, fds)],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                # Its own session: a Ctrl-C in the terminal, or a signal to our group, is for the front to act
                # on.
                start_new_session=True,
                env={**os.environ, **_thread_environment(threads, ranks)},
            )
        except BaseException:
            ours.close()
            for arena in arenas:
                arena.close()
            raise
        finally:
            theirs.close()
        child = cls(process, arenas)
        child._reader, child._writer = await asyncio.open_connection(sock=ours)
        return child

    async def handshake(self, load: Load, timeout_s: float) -> EngineInfo:
        """Let it load and warm up.

        Raises:
            EngineStartError: with its own reason, or how it ended.
        """
        start_s = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(protocol.frame(load))
                answer = await protocol.read(self._reader)
        except TimeoutError:
            self._kill(f"was not ready after {timeout_s:g} s and was killed")
            raise EngineStartError(f"the engine was not ready after {timeout_s:g} s") from None
        except EOFError:
            raise EngineStartError(f"the engine process {await self._how_it_ended()} while loading") from None
        if isinstance(answer, LoadFailed):
            raise EngineStartError(answer.reason)
        assert isinstance(answer, Ready), answer
        return EngineInfo(answer.facts, time.monotonic() - start_s, answer.samples)

    @property
    def busy_since_s(self) -> float | None:
        """Since when it has been computing the batch at the head; None when idle."""
        return self._flights[0].head_since_s if self._flights else None

    async def run(self, jobs: Sequence[Job]) -> BatchDone:
        """Send a batch and wait for its answer.

        Raises:
            BatchFailed: it raised. EngineDied: the process ended first.
        """
        await self._slots.acquire()
        if not self.alive:
            self._slots.release()
            raise EngineDied("the engine process ended before the batch was sent", suspect=False)
        arena = self._free.pop()
        refs, size = self._arenas[arena].write(jobs)
        answer: asyncio.Future[BatchDone] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda answer: self._give_back(arena, answer))
        self._writer.write(protocol.frame(Batch(self._take_off(answer), arena, size, refs)))
        # Shielded: the process computes on when our caller is gone, and the arena is busy until it answers.
        return await asyncio.shield(answer)

    async def listen(
        self, hang_s: float, ping_s: float, on_report: Callable[[EngineReport], None] = lambda report: None
    ) -> None:
        """Take in answers until the process is gone.

        Args:
            hang_s: it is killed when it does not answer a batch, or a ping, for so long.
            ping_s: it is pinged when it has been idle for so long.
            on_report: told what the engine says it has done.
        """
        loop = asyncio.get_running_loop()
        watchdog = loop.create_task(self._watch(hang_s, ping_s))
        try:
            while True:
                answer = await protocol.read(self._reader)
                self._heard_s = time.monotonic()
                flight = self._flights.popleft()
                assert isinstance(answer, BatchDone | BatchRaised | Pong), answer
                assert answer.id == flight.id, (answer.id, flight.id)
                self._touch_head()
                if not isinstance(answer, BatchRaised) and answer.report is not None:
                    on_report(answer.report)
                if isinstance(answer, Pong):
                    continue
                assert flight.answer is not None, "a ping is answered by a pong"
                if isinstance(answer, BatchDone):
                    flight.answer.set_result(answer)
                else:
                    flight.answer.set_exception(BatchFailed(answer.reason))
        except EOFError:
            return
        finally:
            self.alive = False
            watchdog.cancel()

    async def bury(self, grace_s: float = _EXIT_GRACE_S) -> str:
        """Hang up, wait for the end of the process, free all, fail what it left unanswered; how it ended.

        An idle process leaves by itself when we hang up; one that has not left after `grace_s` is killed.
        """
        self.alive = False
        self._writer.close()
        try:
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            return await self._how_it_ended(grace_s)
        finally:
            self._process.kill()
            self._process.wait()
            for arena in self._arenas:
                arena.close()
            how = self._describe()
            for position, flight in enumerate(self._flights):
                if flight.answer is not None:
                    flight.answer.set_exception(
                        EngineDied(f"the engine process {how}", suspect=position == 0)
                    )
            self._flights.clear()

    def _kill(self, why: str) -> None:
        self._why_killed = why
        self._process.kill()

    def _give_back(self, arena: int, answer: asyncio.Future[BatchDone]) -> None:
        # Looked at here, so that a failure whose caller is gone is not reported as never retrieved.
        if not answer.cancelled():
            answer.exception()
        self._free.append(arena)
        self._slots.release()

    def _take_off(self, answer: asyncio.Future[BatchDone] | None) -> int:
        flight = _Flight(next(self._ids), answer)
        self._flights.append(flight)
        self._touch_head()
        return flight.id

    def _touch_head(self) -> None:
        if self._flights and self._flights[0].head_since_s is None:
            self._flights[0].head_since_s = time.monotonic()

    async def _watch(self, hang_s: float, ping_s: float) -> None:
        step_s = min(1.0, hang_s / 4, ping_s)
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(step_s)
            last_s, looked_s = looked_s, time.monotonic()
            since_s = self.busy_since_s
            if since_s is None:
                if looked_s - self._heard_s >= ping_s:
                    self._writer.write(protocol.frame(Ping(self._take_off(None))))
            # Whoever slept through its own alarm, as all of a suspended machine does, looks again first.
            elif looked_s - since_s > hang_s and looked_s - last_s < step_s + hang_s / 2:
                self._kill(f"gave no answer for {hang_s:g} s and was killed")
                return

    async def _how_it_ended(self, grace_s: float = _EXIT_GRACE_S) -> str:
        give_up_s = time.monotonic() + grace_s
        while self._process.poll() is None and time.monotonic() < give_up_s:
            await asyncio.sleep(_POLL_S)
        if self._process.poll() is None:
            self._kill("did not leave and was killed")
            while self._process.poll() is None:
                await asyncio.sleep(_POLL_S)
        return self._describe()

    def _describe(self) -> str:
        code = self._process.returncode
        if self._why_killed is not None:
            return self._why_killed
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _thread_environment(threads: int, ranks: int) -> dict[str, str]:
    """The thread budget, for every library that reads it before main() can set it."""
    budget = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if threads * ranks >= num_cores():
        # No core to spare for the front: threads that wait must sleep, not spin.
        budget |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return budget
