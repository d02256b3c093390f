"""Exchange through gloo, over TCP, between CPU processes on any hosts."""

# letters: see __init__.py

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from vlmoe_kernels.collectives import DEFAULT_TIMEOUT_S, GroupError
from vlmoe_kernels.collectives.copied_rows import CopyingGroup


class GlooGroup(CopyingGroup):
    """A group of its own, apart from torch's default group.

    Args:
        store: through which the ranks find each other; it must `set`, `get` and `wait`.
        rank: this process.
        size: number of ranks.
        address: of this host, as the others reach it.
        timeout_s: how long another rank may stay silent inside an exchange.

    Raises:
        GroupError: the ranks do not reach each other.
    """

    def __init__(
        self, store: Store, rank: int, size: int, address: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        super().__init__(rank, size)
        # torch's own description of the class is behind
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=address)]
        options._timeout = timedelta(seconds=timeout_s)
        # exchanges come one behind the other
        options._threads = 1
        # gloo keeps no reference to a store written in Python
        self._store = store
        try:
            self._group = gloo(store, rank, size, options)
        except RuntimeError as error:
            raise GroupError(f"rank {rank} does not reach the others: {error}") from error

    def all_to_all(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """See `CopyingGroup.all_to_all`."""
        received = rows_RD.new_empty(sum(receive), *rows_RD.shape[1:])
        try:
            self._group.alltoall_base(
                received, rows_RD, list(receive), list(send), dist.AllToAllOptions()
            ).wait()
        except RuntimeError as error:
            raise GroupError(f"rank {self.rank} lost its group: {error}") from error
        return received
