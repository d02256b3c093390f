"""One life of an engine process, seen from the front.

    spawn -> handshake (Load -> Ready) -> run, run, ... -> listen returns -> bury

Batches are answered in the order they were sent, so the oldest unanswered one is what the process is
computing: it is the suspect when the process dies, and it is the one the watchdog times. An idle process is pinged, so
that a hang is found before somebody needs it.
"""

import asyncio
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
from vlmoe_serve.engine.failures import BatchFailed, EngineDied, EngineFailure, EngineStartError
from vlmoe_serve.engine.link import Link
from vlmoe_serve.engine.protocol import (
    Batch,
    BatchDone,
    BatchRaised,
    EngineInfo,
    FromEngine,
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
    # None and None: a ping, for whose answer nobody waits.
    answer: asyncio.Future[BatchDone] | None
    arena: int | None
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
        self._loaded: asyncio.Future[Ready | LoadFailed] = asyncio.get_running_loop().create_future()
        self._on_report: Callable[[EngineReport], None] = lambda report: None
        self._link: Link

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
        child._link = await Link.over(ours, child._took)
        return child

    async def handshake(self, load: Load, timeout_s: float) -> EngineInfo:
        """Let it load and warm up.

        Raises:
            EngineStartError: with its own reason, or how it ended.
        """
        start_s = time.monotonic()
        ending = asyncio.ensure_future(self._link.end())
        try:
            async with asyncio.timeout(timeout_s):
                self._link.send(load)
                await asyncio.wait((self._loaded, ending), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self._kill(f"was not ready after {timeout_s:g} s and was killed")
            raise EngineStartError(f"the engine was not ready after {timeout_s:g} s") from None
        finally:
            # looked at, so that it is not reported as never retrieved
            error = None if ending.cancel() else ending.exception()
        if not self._loaded.done():
            if error is not None:
                raise EngineStartError(f"the engine process sent what we do not understand: {error!r}")
            raise EngineStartError(f"the engine process {await self._how_it_ended()} while loading")
        answer = self._loaded.result()
        if isinstance(answer, LoadFailed):
            raise EngineStartError(answer.reason)
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
        if not self.alive or self._link.ended:
            self._slots.release()
            # The supervisor has yet to be told: whoever tries again at once must not keep the loop from doing so.
            await asyncio.sleep(0)
            raise EngineDied("the engine process ended before the batch was sent", suspect=False)
        arena = self._free.pop()
        refs, size = self._arenas[arena].write(jobs)
        answer: asyncio.Future[BatchDone] = asyncio.get_running_loop().create_future()
        self._link.send(Batch(self._take_off(answer, arena), arena, size, refs))
        try:
            return await answer
        finally:
            # an error that it holds would hold it through this frame, and the batch with it
            del answer

    def leave(self, left: tuple[int, ...]) -> None:
        """Have it let go of those of its checkpoints, after what it was sent before."""
        if self.alive and not self._link.ended:
            self._link.send(Ping(self._take_off(), left))

    async def listen(
        self, hang_s: float, ping_s: float, on_report: Callable[[EngineReport], None] = lambda report: None
    ) -> None:
        """Take in answers until the process is gone.

        Args:
            hang_s: it is killed when it does not answer a batch, or a ping, for so long.
            ping_s: it is pinged when it has been idle for so long.
            on_report: told what the engine says it has done.
        """
        self._on_report = on_report
        watchdog = asyncio.get_running_loop().create_task(self._watch(hang_s, ping_s))
        try:
            await self._link.end()
        finally:
            self.alive = False
            watchdog.cancel()

    async def bury(self, grace_s: float = _EXIT_GRACE_S) -> str:
        """Hang up, wait for the end of the process, free all, fail what it left unanswered; how it ended.

        An idle process leaves by itself when we hang up; one that has not left after `grace_s` is killed.
        """
        self.alive = False
        self._link.close()
        try:
            return await self._how_it_ended(grace_s)
        finally:
            self._process.kill()
            self._process.wait()
            for arena in self._arenas:
                arena.close()
            how = self._describe()
            for position, flight in enumerate(self._flights):
                self._settle(flight, EngineDied(f"the engine process {how}", suspect=position == 0))
            self._flights.clear()

    def _took(self, message: FromEngine) -> None:
        """A message from the process, in the order of what it was sent."""
        if isinstance(message, Ready | LoadFailed):
            self._loaded.set_result(message)
            return
        self._heard_s = time.monotonic()
        flight = self._flights.popleft()
        assert message.id == flight.id, (message.id, flight.id)
        self._touch_head()
        self._settle(flight, BatchFailed(message.reason) if isinstance(message, BatchRaised) else message)
        if not isinstance(message, BatchRaised) and message.report is not None:
            self._on_report(message.report)

    def _settle(self, flight: _Flight, outcome: BatchDone | Pong | EngineFailure) -> None:
        # The process computes on when whoever asked is gone, and the arena is busy until it answers.
        if flight.arena is not None:
            self._free.append(flight.arena)
            self._slots.release()
        if flight.answer is None or flight.answer.done():
            return
        if isinstance(outcome, EngineFailure):
            flight.answer.set_exception(outcome)
            # Looked at here, so that a failure whose caller leaves at this moment is not reported as never retrieved.
            flight.answer.exception()
        else:
            assert isinstance(outcome, BatchDone), "a pong answers a ping"
            flight.answer.set_result(outcome)

    def _kill(self, why: str) -> None:
        self._why_killed = why
        self._process.kill()

    def _take_off(self, answer: asyncio.Future[BatchDone] | None = None, arena: int | None = None) -> int:
        flight = _Flight(next(self._ids), answer, arena)
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
                    self._link.send(Ping(self._take_off()))
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
