"""Exchange between CPU processes of one host: rows lie in shared memory, a pipe a pair says where.

Waiting is a blocking read, which costs no core; a rank that dies closes its pipes, and that wakes the others.

Each rank owns two areas and writes to them in turn. When a rank has heard of all others in exchange i, they have read
what it wrote in exchange i - 1, because each speaks only after it has finished the one before: so the area of i - 1
is free for i + 1, without acknowledgements.
"""

# letters: see __init__.py

import mmap
import os
import select
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmoe_kernels.collectives import DEFAULT_TIMEOUT_S, GroupError

# where the rows for one rank begin in the sender's area, and how many bytes they are
_HEADER = struct.Struct("=qq")
_ALIGN = 64
_AREAS = 2


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What one rank inherits: file descriptors, by rank where there are several.

    areas: all ranks' shared memory. inbox: pipes to read. outbox: pipes to write. A rank's own pipes are -1.
    """

    rank: int
    areas: tuple[tuple[int, ...], ...]
    inbox: tuple[int, ...]
    outbox: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """Every descriptor, for `pass_fds`."""
        pipes = [fd for fd in (*self.inbox, *self.outbox) if fd >= 0]
        return [fd for area in self.areas for fd in area] + pipes


def make_descriptors(size: int) -> list[Descriptors]:
    """The descriptors of a new group, one value a rank; whoever starts the ranks makes them.

    The maker closes its copies with `close_descriptors` once the ranks have theirs: only then does a rank's death show.
    """
    areas = tuple(tuple(_anonymous_file() for _ in range(_AREAS)) for _ in range(size))
    pipes = {(src, dst): os.pipe() for src in range(size) for dst in range(size) if src != dst}
    return [
        Descriptors(
            rank,
            areas,
            tuple(pipes[src, rank][0] if src != rank else -1 for src in range(size)),
            tuple(pipes[rank, dst][1] if dst != rank else -1 for dst in range(size)),
        )
        for rank in range(size)
    ]


def close_descriptors(group: Sequence[Descriptors]) -> None:
    """Close every descriptor of the given ranks, those that they share once."""
    for fd in sorted({fd for descriptors in group for fd in descriptors.all}):
        os.close(fd)


class SharedMemoryGroup:
    """One rank's end. timeout_s: how long another rank may stay silent inside an exchange."""

    def __init__(self, descriptors: Descriptors, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._fds = descriptors
        self._timeout_s = timeout_s
        self._turn = 0
        # by (rank, area); replaced by a larger map when the area has grown
        self._maps: dict[tuple[int, int], mmap.mmap] = {}

    @property
    def rank(self) -> int:
        """See `Group.rank`."""
        return self._fds.rank

    @property
    def size(self) -> int:
        """See `Group.size`."""
        return len(self._fds.areas)

    def exchange_counts(self, counts_WG: Tensor) -> Tensor:
        """See `Group.exchange_counts`."""
        one_each = [1] * self.size
        return self.exchange_rows(counts_WG, one_each, one_each)

    def exchange_rows(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """See `Group.exchange_rows`."""
        parts = torch.split(rows_RD.contiguous(), list(send))
        self._post(parts)
        received = rows_RD.new_empty(sum(receive), *rows_RD.shape[1:])
        for rank, target in enumerate(torch.split(received, list(receive))):
            if rank == self.rank:
                target.copy_(parts[rank])
            else:
                self._fetch(rank, target)
        self._turn = (self._turn + 1) % _AREAS
        return received

    def _post(self, parts: Sequence[Tensor]) -> None:
        """Lay out the rows for the others, then tell each where its own are."""
        places, end = [], 0
        for rank, part in enumerate(parts):
            places.append(end)
            if rank != self.rank:
                end += -(-part.nbytes // _ALIGN) * _ALIGN
        area = self._map(self.rank, end)
        for rank, (part, place) in enumerate(zip(parts, places, strict=True)):
            if rank == self.rank:
                continue
            if part.nbytes:
                _view(area, place, part).copy_(part)
            try:
                os.write(self._fds.outbox[rank], _HEADER.pack(place, part.nbytes))
            except OSError as error:
                raise GroupError(f"rank {rank} is gone: {error.strerror}") from None

    def _fetch(self, rank: int, target: Tensor) -> None:
        poll = select.poll()
        poll.register(self._fds.inbox[rank], select.POLLIN)
        if not poll.poll(1000 * self._timeout_s):
            raise GroupError(f"rank {rank} gave no sign for {self._timeout_s:g} s")
        header = os.read(self._fds.inbox[rank], _HEADER.size)
        if not header:
            raise GroupError(f"rank {rank} is gone")
        place, num_bytes = _HEADER.unpack(header)
        if num_bytes != target.nbytes:
            raise GroupError(f"rank {rank} sent {num_bytes} bytes, {target.nbytes} were announced")
        if num_bytes:
            target.copy_(_view(self._map(rank, place + num_bytes), place, target))

    def _map(self, rank: int, size: int) -> mmap.mmap:
        """An area of at least that many bytes; our own one grows."""
        key = rank, self._turn
        if key not in self._maps or len(self._maps[key]) < size:
            fd = self._fds.areas[rank][self._turn]
            if rank == self.rank:
                # doubled, so that a slowly growing batch does not map anew each time
                os.ftruncate(fd, max(2 * size, mmap.PAGESIZE))
            # the old map is left to the garbage collector: a view of it may still be alive
            self._maps[key] = mmap.mmap(fd, 0)
        return self._maps[key]


def _view(area: mmap.mmap, place: int, like: Tensor) -> Tensor:
    return torch.frombuffer(area, dtype=like.dtype, count=like.numel(), offset=place).view(like.shape)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vlmoe-rows", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
