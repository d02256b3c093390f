"""Exchange of rows between the ranks of one expert-parallel group.

    counts_WG -> exchange_counts -> who sends me how much -> exchange_rows -> received rows

`SharedMemoryGroup` joins CPU processes of one host, `GlooGroup` of several. `DistributedGroup` joins whatever
torch.distributed reaches: GPUs, by NCCL. Every rank calls the same methods in the same order, a rank without rows as
well.
"""

# W = ranks of the group, G = groups of weights on one rank, R = rows, D = width

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

    def exchange_rows(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """An all-to-all with uneven shares.

        Args:
            rows_RD: [sum(send), D], the rows for rank 0 first.
            send: number of rows for each rank.
            receive: number of rows from each rank.

        Returns:
            [sum(receive), D], the rows of rank 0 first.

        Raises:
            GroupError: a rank was lost.
        """
        ...
