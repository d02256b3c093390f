"""Exchange through torch.distributed: NCCL between GPUs, gloo between hosts."""

# letters: see __init__.py

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from vlmoe_kernels.collectives import GroupError
from vlmoe_kernels.collectives.copied_rows import pieces_of


class DistributedGroup:
    """A process group that somebody else has initialised; None is torch's default group."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self._group = process_group
        self._on_gpu = dist.get_backend(process_group) == "nccl"

    @property
    def rank(self) -> int:
        """See `Group.rank`."""
        return dist.get_rank(self._group)

    @property
    def size(self) -> int:
        """See `Group.size`."""
        return dist.get_world_size(self._group)

    def exchange_counts(self, counts_WG: Tensor) -> Tensor:
        """See `Group.exchange_counts`."""
        counts_WG = counts_WG.cuda() if self._on_gpu else counts_WG
        return self._all_to_all(counts_WG, [1] * self.size, [1] * self.size).cpu()

    def exchange_rows(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> Tensor:
        """See `Group.exchange_rows`."""
        if order_S is not None:
            rows_RD = rows_RD.index_select(0, order_S)
        return self._all_to_all(rows_RD, send, receive)

    def room(self, num_rows: int, like_RD: Tensor) -> Tensor:
        """See `Group.room`."""
        return like_RD.new_empty(num_rows, *like_RD.shape[1:])

    def exchange_pieces(
        self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int], order_S: Tensor | None = None
    ) -> list[Tensor]:
        """See `Group.exchange_pieces`."""
        return pieces_of(self.exchange_rows(rows_RD, send, receive, order_S), receive, self.rank)

    def _all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        received = rows.new_empty(sum(receive), *rows.shape[1:])
        try:
            dist.all_to_all_single(received, rows.contiguous(), list(receive), list(send), group=self._group)
        except (RuntimeError, dist.DistBackendError) as error:
            raise GroupError(f"rank {self.rank} lost its group: {error}") from error
        return received
