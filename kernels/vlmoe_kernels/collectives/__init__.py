"""Exchange of rows between the ranks of one expert-parallel group.

    counts_WG -> exchange_counts -> who sends me how much -> exchange_rows -> received rows

`SharedMemoryGroup` joins CPU processes of one host, `GlooGroup` of several. `DistributedGroup` joins whatever
torch.distributed reaches: GPUs, by NCCL. Every rank calls the same methods in the same order, a rank without rows as
well.
"""

# W = ranks of the group, G = groups of weights on one rank, R = rows, S = rows that are sent, D = width

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

# how long another rank may stay silent inside an exchange
DEFAULT_TIMEOUT_S = 60.0


class GroupError(RuntimeError):
    """A rank was lost or does not answer: the group cannot go on. The message names the rank."""


class Group(Protocol):
    """The ranks that share the experts of one model."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    def exchange_counts(self, counts_WG: Tensor) -> Tensor:
        """Row w of the argument goes to rank w; row w of the answer came from rank w.

        Args:
            counts_WG: int64 [ranks, G] on the CPU, G equal on all ranks.

        Raises:
            GroupError: a rank was lost.
        """
        ...

    def exchange_rows(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> Tensor:
        """An all-to-all with uneven shares.

        Args:
            rows_RD: [sum(send), D], the rows for rank 0 first.
            send: number of rows for each rank.
            receive: number of rows from each rank.
            order_S: int64 [sum(send)], to send these of the rows instead, in this order.

        Returns:
            [sum(receive), D], the rows of rank 0 first.

        Raises:
            GroupError: a rank was lost.
        """
        ...

    def room(self, num_rows: int, like_RD: Tensor) -> Tensor:
        """Memory for the rows of the coming `exchange_pieces`: as wide as those, of their dtype and device.

        Where ranks share memory it lies there, and what is written into it need not be copied again.
        """
        ...

    def exchange_pieces(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> list[Tensor]:
        """As `exchange_rows`, in one tensor a rank; each holds until the next exchange of rows.

        That of this rank itself is empty: what it would send to itself, it has.

        Raises:
            GroupError: a rank was lost.
        """
        ...
