"""A cache that is bounded by bytes, not by entries: what was used least recently goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# what Python needs for a key, a small array object and their places in the table, about
ENTRY_BYTES = 400


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How a cache has done so far. num_bytes: what its entries take now."""

    hits: int
    misses: int
    num_bytes: int
    num_entries: int


class ByteCache(Generic[K, V]):
    """Share it between threads. With `max_bytes` 0 it holds nothing."""

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._num_bytes = 0

    def __bool__(self) -> bool:
        """Whether it can hold anything."""
        return self._max_bytes > ENTRY_BYTES

    def get(self, key: K) -> V | None:
        """The value, or None; either is counted."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, num_bytes: int) -> None:
        """Keep a value of that many bytes, and let go of the oldest ones that it leaves no room for."""
        size = num_bytes + ENTRY_BYTES
        if size > self._max_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            self._num_bytes += size - (before[1] if before is not None else 0)
            self._entries[key] = (value, size)
            while self._num_bytes > self._max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._num_bytes -= freed

    @property
    def stats(self) -> CacheStats:
        """Its counts now."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._num_bytes, len(self._entries))
