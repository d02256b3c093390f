"""Exchange between CPU processes of one host: rows lie in shared memory, a pipe a pair says where.

Waiting is a blocking read, which costs no core; a rank that dies closes its pipes, and that wakes the others.

Each rank owns two areas and writes to them in turn. When a rank has heard of all others in exchange i, they have read
what it wrote in exchange i - 1, because each speaks only after it has finished the one before: so the area of i - 1
is free for i + 1, without acknowledgements.
"""

# letters: see __init__.py

import ctypes
import math
import mmap
import os
import select
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from vlmoe_kernels.collectives import DEFAULT_TIMEOUT_S, GroupError

# where the rows for one rank begin in the sender's area, and how many bytes they are
_HEADER = struct.Struct("=qq")
_ALIGN = 64
# counts up to this many bytes go through a pipe, far below what one holds
_INLINE = 4000
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
        self._polls = [select.poll() for _ in descriptors.inbox]
        for poll, fd in zip(self._polls, descriptors.inbox, strict=True):
            if fd >= 0:
                poll.register(fd, select.POLLIN)

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
        counts_WG = counts_WG.contiguous()
        if counts_WG[0].nbytes > _INLINE:
            one_each = [1] * self.size
            return self.exchange_rows(counts_WG, one_each, one_each)
        # small enough to travel through the pipes themselves
        for rank, counts in enumerate(counts_WG.numpy()):
            if rank != self.rank:
                self._tell(rank, 0, counts.tobytes())
        came = np.empty(counts_WG.shape, np.int64)
        for rank, counts in enumerate(came):
            if rank == self.rank:
                counts[:] = counts_WG[rank].numpy()
            else:
                self._hear(rank, counts.nbytes)
                counts[:] = np.frombuffer(self._read(rank, counts.nbytes), np.int64)
        return torch.from_numpy(came)

    def exchange_rows(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> Tensor:
        """See `Group.exchange_rows`."""
        self._post(rows_RD, send, receive, order_S)
        received = rows_RD.new_empty(sum(receive), *rows_RD.shape[1:])
        targets = torch.split(received, list(receive))
        _take(rows_RD, order_S, sum(send[: self.rank]), targets[self.rank])
        for rank, target in enumerate(targets):
            if rank != self.rank:
                target.copy_(self._piece(rank, target.shape, target.dtype))
        self._turn = (self._turn + 1) % _AREAS
        return received

    def room(self, num_rows: int, like_RD: Tensor) -> Tensor:
        """See `Group.room`."""
        shape = num_rows, *like_RD.shape[1:]
        area = self._map(self.rank, math.prod(shape) * like_RD.element_size())
        return _view(area, 0, shape, like_RD.dtype) if num_rows else like_RD.new_empty(shape)

    def exchange_pieces(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> list[Tensor]:
        """See `Group.exchange_pieces`. They lie where the others wrote them."""
        self._post(rows_RD, send, receive, order_S)
        width = rows_RD.shape[1:]
        pieces = [
            rows_RD[:0] if rank == self.rank else self._piece(rank, (num, *width), rows_RD.dtype)
            for rank, num in enumerate(receive)
        ]
        self._turn = (self._turn + 1) % _AREAS
        return pieces

    def _post(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None
    ) -> None:
        """Lay out the rows for the others, and tell each where its own are as soon as they lie there."""
        if send[self.rank] != receive[self.rank]:
            raise GroupError(
                f"rank {self.rank} keeps {send[self.rank]} rows, {receive[self.rank]} were announced"
            )
        row_bytes = rows_RD.element_size() * math.prod(rows_RD.shape[1:])
        if order_S is None and self._lies_in_room(rows_RD):
            for rank, (num, end) in enumerate(zip(send, accumulate(send), strict=True)):
                if rank != self.rank:
                    self._tell(rank, (end - num) * row_bytes, num * row_bytes)
            return
        sizes = [0 if rank == self.rank else num * row_bytes for rank, num in enumerate(send)]
        area = self._map(self.rank, sum(-(-size // _ALIGN) * _ALIGN for size in sizes))
        place = first = 0
        for rank, (num, size) in enumerate(zip(send, sizes, strict=True)):
            if rank != self.rank:
                if size:
                    _take(
                        rows_RD, order_S, first, _view(area, place, (num, *rows_RD.shape[1:]), rows_RD.dtype)
                    )
                self._tell(rank, place, size)
            place += -(-size // _ALIGN) * _ALIGN
            first += num

    def _lies_in_room(self, rows_RD: Tensor) -> bool:
        """Whether it is what `room` gave."""
        area = self._maps.get((self.rank, self._turn))
        return area is not None and rows_RD.data_ptr() == ctypes.addressof(ctypes.c_char.from_buffer(area))

    def _piece(self, rank: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """What that rank has for this one, in its area."""
        num_bytes = math.prod(shape) * dtype.itemsize
        place = self._hear(rank, num_bytes)
        if not num_bytes:
            return torch.empty(shape, dtype=dtype)
        return _view(self._map(rank, place + num_bytes), place, shape, dtype)

    def _tell(self, rank: int, place: int, what: int | bytes) -> None:
        """Where its rows lie and how many bytes they are; or the bytes themselves."""
        size, inline = (what, b"") if isinstance(what, int) else (len(what), what)
        try:
            os.write(self._fds.outbox[rank], _HEADER.pack(place, size) + inline)
        except OSError as error:
            raise GroupError(f"rank {rank} is gone: {error.strerror}") from None

    def _hear(self, rank: int, num_bytes: int) -> int:
        """Where the rows of that rank lie."""
        if not self._polls[rank].poll(1000 * self._timeout_s):
            raise GroupError(f"rank {rank} gave no sign for {self._timeout_s:g} s")
        place, told = _HEADER.unpack(self._read(rank, _HEADER.size))
        if num_bytes != told:
            raise GroupError(f"rank {rank} sent {told} bytes, {num_bytes} were announced")
        return int(place)

    def _read(self, rank: int, num_bytes: int) -> bytes:
        read = b""
        while len(read) < num_bytes:
            more = os.read(self._fds.inbox[rank], num_bytes - len(read))
            if not more:
                raise GroupError(f"rank {rank} is gone")
            read += more
        return read

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


def _take(rows_RD: Tensor, order_S: Tensor | None, first: int, to: Tensor) -> None:
    """Copy as many rows as fit there, from the given one on."""
    if order_S is None:
        to.copy_(rows_RD[first : first + len(to)])
    elif len(to):
        torch.index_select(rows_RD, 0, order_S[first : first + len(to)], out=to)


def _view(area: mmap.mmap, place: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(area, dtype=dtype, count=math.prod(shape), offset=place).view(shape)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vlmoe-rows", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
