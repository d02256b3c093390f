"""Items of one call wait for each other instead of being refused because of each other.

A call of 256 inputs may be longer than the queue's limit all by itself. Its items are submitted as the queue
takes them: one that is refused waits until a sibling has been answered and tries again; only when none of its
siblings is under way is the refusal the caller's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vlmoe_serve.errors import Overloaded

T = TypeVar("T")


class Pacer:
    """One per call."""

    def __init__(self) -> None:
        self._num_running = 0
        self._refused: deque[asyncio.Future[None]] = deque()

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await `attempt()`, again after a sibling's end for as long as it is refused.

        Raises:
            Overloaded: refused, and no sibling is under way.
        """
        while True:
            self._num_running += 1
            refused = False
            try:
                return await attempt()
            except Overloaded:
                refused = self._num_running > 1
                if not refused:
                    raise
            finally:
                self._num_running -= 1
                if not refused:
                    self._wake_one()
            await self._turn()

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._refused.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # the turn may have been given just now; it must not be lost with this item
            if turn.done() and not turn.cancelled():
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._refused:
            turn = self._refused.popleft()
            if not turn.done():
                turn.set_result(None)
                return
