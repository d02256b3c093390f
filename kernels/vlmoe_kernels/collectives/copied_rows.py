"""What groups share that send rows as copies, and cannot read each other's memory."""

# letters: see __init__.py

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class CopyingGroup(ABC):
    """A `Group`, given an all-to-all. rank, size: see `Group`."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    @abstractmethod
    def all_to_all(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """As `exchange_rows`, of rows that lie one behind the other."""

    def exchange_counts(self, counts_WG: Tensor) -> Tensor:
        """See `Group.exchange_counts`."""
        one_each = [1] * self.size
        return self.all_to_all(counts_WG.contiguous(), one_each, one_each)

    def exchange_rows(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> Tensor:
        """See `Group.exchange_rows`."""
        if order_S is not None:
            rows_RD = rows_RD.index_select(0, order_S)
        return self.all_to_all(rows_RD.contiguous(), send, receive)

    def room(self, num_rows: int, like_RD: Tensor) -> Tensor:
        """See `Group.room`."""
        return like_RD.new_empty(num_rows, *like_RD.shape[1:])

    def exchange_pieces(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> list[Tensor]:
        """See `Group.exchange_pieces`: a rank has its own rows already."""
        pieces = list(torch.split(self.exchange_rows(rows_RD, send, receive, order_S), list(receive)))
        pieces[self.rank] = pieces[self.rank][:0]
        return pieces
