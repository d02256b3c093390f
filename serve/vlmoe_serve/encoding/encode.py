"""The encode stage: pictures are decoded and texts tokenised in a few threads, never on the event loop."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vlmoe_serve.errors import DeadlineExceeded

T = TypeVar("T")
_SMOOTHING = 0.1


class EncodePool:
    """A bounded pool that knows how long a newcomer would wait, and how long one input takes (`mean_ms`)."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="encode")
        self.mean_ms = 1.0
        self._num_inside = 0

    @property
    def wait_ms(self) -> float:
        """Predicted wait of a newcomer."""
        return max(0, self._num_inside - self._num_threads + 1) * self.mean_ms / self._num_threads

    async def run(self, work: Callable[[], T], deadline_s: float | None) -> T:
        """Run in a thread. Work that is cancelled or expired before its turn costs nothing.

        Raises:
            DeadlineExceeded: its turn came too late.
        """

        def timed() -> tuple[T, float]:
            start_s = time.monotonic()
            if deadline_s is not None and start_s >= deadline_s:
                raise DeadlineExceeded("the deadline passed before the request was decoded")
            return work(), 1000 * (time.monotonic() - start_s)

        self._num_inside += 1
        try:
            result, took_ms = await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        finally:
            self._num_inside -= 1
        self.mean_ms += _SMOOTHING * (took_ms - self.mean_ms)
        return result

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)
