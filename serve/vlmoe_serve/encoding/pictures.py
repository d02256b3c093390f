"""From the bytes of an image file to a head's pixels: decoded once, kept by content, within a memory budget.

    bytes -> sha256 + preprocessing -> kept? | being decoded by another thread? | decode

The key is what the pixels follow from, so an entry can never be out of date, and nothing of a file but its hash and
its prepared pixels is kept.
"""

import hashlib
import threading
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from vlmoe_model import resizing
from vlmoe_model.config import ImageSpec
from vlmoe_model.images import load_image
from vlmoe_serve.encoding.byte_cache import ByteCache, CacheStats
from vlmoe_serve.encoding.pixel_budget import PixelBudget

Pixels = npt.NDArray[np.uint8]
_Key = tuple[bytes, ImageSpec]


class Pictures:
    """Decodes pictures. Called from worker threads.

    Args:
        max_pixels: largest picture, and what all threads together may decode at a time.
        cache_bytes: prepared pixels to keep; 0 keeps nothing.
    """

    def __init__(self, max_pixels: int, cache_bytes: int = 0) -> None:
        # compiled now, if it never was: not in the first request
        resizing.in_c()
        self._max_pixels = max_pixels
        self._budget = PixelBudget(max_pixels)
        self._cache: ByteCache[_Key, Pixels] = ByteCache(cache_bytes)
        self._running: dict[_Key, Future[Pixels]] = {}
        self._lock = threading.Lock()

    @property
    def stats(self) -> CacheStats:
        """Counts of the cache."""
        return self._cache.stats

    def load(self, data: bytes, spec: ImageSpec) -> Pixels:
        """The pixels that a head wants of this file: uint8 [size, size, 3], possibly shared and not writeable.

        Raises:
            InputError: as `open_image` says.
        """
        if not self._cache:
            return self._decode(data, spec)
        key = (hashlib.sha256(data).digest(), spec)
        kept = self._cache.get(key)
        return self._once(key, data) if kept is None else kept

    def _once(self, key: _Key, data: bytes) -> Pixels:
        with self._lock:
            other = self._running.get(key)
            if other is None:
                mine = self._running[key] = Future()
        if other is not None:
            try:
                return other.result()
            finally:
                del other
        try:
            pixels = self._decode(data, key[1])
            pixels.flags.writeable = False
            self._cache.put(key, pixels, pixels.nbytes)
            mine.set_result(pixels)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._running[key]
            # an error that it holds would hold it through this frame, and the picture's bytes with it
            del mine
        return pixels

    def _decode(self, data: bytes, spec: ImageSpec) -> Pixels:
        return load_image(data, spec, max_pixels=self._max_pixels, turn=self._budget.turn)
