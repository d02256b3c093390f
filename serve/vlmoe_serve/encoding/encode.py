"""The encode stage: pictures are decoded and texts tokenised in a few threads, never on the event loop.

    run -> queue -> thread -> the loop's next turn

The queue is shared by the threads and has no pool of the standard library around it: its futures, made for threads that
wait, cost a request more than the way there and back.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from vlmoe_serve.errors import DeadlineExceeded

T = TypeVar("T")
_SMOOTHING = 0.1
_Outcome = tuple[Any, BaseException | None, float]
# of what was not begun
_DROPPED: _Outcome = (None, None, 0.0)


@dataclass(slots=True, eq=False)
class _Piece:
    """Some work and whoever waits for it."""

    work: Callable[[], object]
    deadline_s: float | None
    answer: "asyncio.Future[Any]"


def _outcome(work: Callable[[], object], deadline_s: float | None) -> _Outcome:
    """What comes of it, and the milliseconds that it takes.

    Knows nothing of who waits: an error holds this frame, and must not be held by it.
    """
    start_s = time.monotonic()
    if deadline_s is not None and start_s >= deadline_s:
        return None, DeadlineExceeded("the deadline passed before the request was decoded"), 0.0
    try:
        return work(), None, 1000 * (time.monotonic() - start_s)
    except BaseException as error:
        return None, error, 0.0


class EncodePool:
    """Threads that know how long a newcomer would wait, and how long one input takes (`mean_ms`)."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = 0
        self._queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.closed = False
        self.grow(num_threads)
        self.mean_ms = 1.0
        self._num_inside = 0

    def grow(self, num_threads: int) -> None:
        """Have so many threads from now on; never fewer than before."""
        for n in range(self._num_threads, num_threads):
            self._threads.append(threading.Thread(target=self._serve, name=f"encode_{n}", daemon=True))
            self._threads[-1].start()
        self._num_threads = len(self._threads)

    @property
    def wait_ms(self) -> float:
        """Predicted wait of a newcomer."""
        return max(0, self._num_inside - self._num_threads + 1) * self.mean_ms / self._num_threads

    async def run(self, work: Callable[[], T], deadline_s: float | None) -> T:
        """Run in a thread. Work that is cancelled or expired before its turn costs nothing.

        Raises:
            DeadlineExceeded: its turn came too late.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._num_inside += 1
        try:
            self._queue.put(_Piece(work, deadline_s, answer))
            return await answer
        finally:
            self._num_inside -= 1
            # an error that it holds would hold it through this frame, and the request with it
            del answer

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self.closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (piece := self._queue.get()) is not None:
            if not piece.answer.cancelled():
                outcome = _DROPPED if self.closed else _outcome(piece.work, piece.deadline_s)
                # nobody waits any more where the loop has ended
                with contextlib.suppress(RuntimeError):
                    piece.answer.get_loop().call_soon_threadsafe(self._settle, piece.answer, outcome)
                # an error holds the frames it came through, and those who called them: this one
                del outcome
            del piece

    def _settle(self, answer: "asyncio.Future[Any]", outcome: _Outcome) -> None:
        result, error, took_ms = outcome
        if answer.done():
            return
        if outcome is _DROPPED:
            answer.cancel()
            return
        if error is not None:
            answer.set_exception(error)
            return
        self.mean_ms += _SMOOTHING * (took_ms - self.mean_ms)
        answer.set_result(result)
