"""Pictures that are decoded at the same time share a number of pixels, so that their memory is bounded.

A picture takes up to about 12 bytes a pixel while it is decoded (its own mode, RGBA, RGB). Without this, four threads
with the largest allowed picture each would take four times the memory that one of them does.
"""

import contextlib
import threading
from collections.abc import Iterator


class PixelBudget:
    """Threads wait for their turn. A picture larger than the whole budget is decoded alone."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, num_pixels: int) -> Iterator[None]:
        """Take that many pixels for as long as the block runs."""
        wanted = min(num_pixels, self._max_pixels)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + wanted <= self._max_pixels)
            self._taken += wanted
        try:
            yield
        finally:
            with self._changed:
                self._taken -= wanted
                self._changed.notify_all()
