"""Arrays of a batch through shared memory, without a name and without a copy on the engine's side.

    front: Arena.write(jobs) -> refs ... socket ... engine: ArenaView.read(refs) -> jobs

An arena is an anonymous file in memory whose descriptor the child inherits. It has no name in /dev/shm and no
resource tracker: when the last process that holds it ends, however it ends, the memory is gone. It grows to
the largest batch seen.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Example, Job
from vlmoe_model.routing_mode import RoutingMode

# Cache lines, and more than any dtype needs.
_ALIGN = 64
_MIN_BYTES = 1 << 20


class ArrayRef(NamedTuple):
    """Where an array lies in an arena."""

    offset: int
    shape: tuple[int, ...]


class JobRef(NamedTuple):
    """A job whose arrays lie in an arena."""

    head: str
    image: ArrayRef | None
    tokens: ArrayRef | None
    explain: bool = False
    mode: RoutingMode | None = None


class Arena:
    """The front's end: owns the memory and writes one batch at a time into it."""

    def __init__(self) -> None:
        self.fd = _anonymous_file()
        self._map: mmap.mmap | None = None

    def write(self, jobs: Sequence[Job]) -> tuple[tuple[JobRef, ...], int]:
        """Copy the jobs' arrays in; where they lie, and how many bytes are in use.

        An array that several jobs share (one picture, many texts) is written once.
        """
        placed: dict[int, tuple[ArrayRef, npt.NDArray[np.uint8] | npt.NDArray[np.int32]]] = {}
        end = 0

        def place(array: npt.NDArray[np.uint8] | npt.NDArray[np.int32] | None) -> ArrayRef | None:
            nonlocal end
            if array is None:
                return None
            if id(array) not in placed:
                placed[id(array)] = ArrayRef(end, array.shape), array
                end += -(-array.nbytes // _ALIGN) * _ALIGN
            return placed[id(array)][0]

        refs = tuple(
            JobRef(job.head, place(job.example.image), place(job.example.tokens), job.explain, job.mode)
            for job in jobs
        )
        memory = self._grown_to(end)
        for ref, array in placed.values():
            np.ndarray(ref.shape, array.dtype, memory, ref.offset)[...] = array
        return refs, end

    def close(self) -> None:
        """Give the memory back; the child may still hold it."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _grown_to(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            if self._map is not None:
                self._map.close()
            # Powers of two: each side maps anew only a few times in its life.
            size = max(_MIN_BYTES, 1 << (size - 1).bit_length() if size else 0)
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
        return self._map


class ArenaView:
    """The engine's end: maps what the front wrote."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def read(self, refs: Sequence[JobRef], size: int) -> list[Job]:
        """The jobs, with arrays that are views of the arena: valid until the batch is answered."""
        if self._map is None or len(self._map) < size:
            # The old map is left to the garbage collector: a view of it may still be alive.
            self._map = mmap.mmap(self._fd, 0)
        return [
            Job(ref.head, Example(self._image(ref.image), self._tokens(ref.tokens)), ref.explain, ref.mode)
            for ref in refs
        ]

    def _image(self, ref: ArrayRef | None) -> npt.NDArray[np.uint8] | None:
        return None if ref is None else np.ndarray(ref.shape, np.uint8, self._map, ref.offset)

    def _tokens(self, ref: ArrayRef | None) -> npt.NDArray[np.int32] | None:
        return None if ref is None else np.ndarray(ref.shape, np.int32, self._map, ref.offset)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vlmoe-arena", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
