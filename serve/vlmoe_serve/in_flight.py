"""Requests that a door has taken and not yet answered; draining waits until there are none."""

import asyncio
import contextlib
from collections.abc import Iterator


class InFlight:
    """A count that can be waited for."""

    def __init__(self) -> None:
        self.num = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One request, for as long as the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """One more, until it leaves."""
        self.num += 1
        self._none.clear()

    def leave(self) -> None:
        """One less."""
        self.num -= 1
        if self.num == 0:
            self._none.set()

    async def ended(self, timeout_s: float) -> bool:
        """Wait until there are none; False if there still are some after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._none.wait()
        except TimeoutError:
            return False
        return True
